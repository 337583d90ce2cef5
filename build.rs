//! How static binaries are linked.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=src/memcpy.c");
    let target = |what: &str| std::env::var(format!("CARGO_CFG_TARGET_{what}")).unwrap_or_default();
    if target("ENV") != "musl" {
        return;
    }
    // The image must stay below 25 MB, and an executable that may be loaded anywhere has 1.6 MB of relocations, which this packs
    // into a fortieth. musl does them at start since 1.2.4, which rustup's target has.
    println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    if target("ARCH") == "x86_64" {
        // Whole, for nothing asks for it by another name than musl's, which comes later.
        cc::Build::new()
            .file("src/memcpy.c")
            .flag("-ffreestanding")
            .link_lib_modifier("+whole-archive")
            .compile("memcpy");
    }
}
