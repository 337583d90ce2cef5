//! `make demo` as a test: it must keep working, and its counts must add up.

use std::process::Command;

#[test]
fn the_demo_ends_with_nothing_lost() {
    let output = Command::new(env!("CARGO_BIN_EXE_demo")).output().expect("run the demo");
    let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}\n{complained}");
    let counts =
        said.lines().find(|line| line.starts_with("written=")).unwrap_or_else(|| panic!("no counts in {said}"));
    println!("{counts}");
    assert!(counts.contains(" lost=0 "), "{counts}");
    assert!(!counts.contains("written=0 "), "{counts}");
}
