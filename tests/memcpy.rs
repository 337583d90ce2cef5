//! The copying of memory that static binaries bring along, on the compiler and the machine at hand.

#![cfg(target_arch = "x86_64")]

use std::process::Command;

#[test]
fn memory_is_copied_as_byte_by_byte_whatever_overlaps() {
    let folder = tempfile::tempdir().unwrap();
    let (object, program) = (folder.path().join("memcpy.o"), folder.path().join("memcpy"));
    let built = Command::new("cc")
        .args(["-O2", "-Wall", "-Wextra", "-Werror", "-Dmemcpy=copied", "-Dmemmove=moved", "-ffreestanding", "-c"])
        .args(["src/memcpy.c", "-o"])
        .arg(&object)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status();
    assert!(built.unwrap().success());
    let linked = Command::new("cc")
        .args(["-O2", "tests/memcpy.c"])
        .arg(object)
        .arg("-o")
        .arg(&program)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status();
    assert!(linked.unwrap().success());
    let output = Command::new(program).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}
