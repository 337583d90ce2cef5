//! How the binary is linked: the image must stay below 25 MB, and a static executable that may be loaded anywhere has 1.6 MB of
//! relocations, which this packs into a fortieth. musl does them at start since 1.2.4, which rustup's target has.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_ENV").is_ok_and(|env| env == "musl") {
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}
