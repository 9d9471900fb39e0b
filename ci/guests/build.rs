//! Hands the linker script of the target's architecture to the linker.

fn main() {
    let arch = std::env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    let os = std::env::var("CARGO_CFG_TARGET_OS").unwrap_or_default();
    let dir = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    let script = format!("{dir}/guest-{arch}.ld");
    if os == "none" && std::path::Path::new(&script).exists() {
        println!("cargo:rustc-link-arg-bins=-T{script}");
    }
    println!("cargo:rustc-check-cfg=cfg(pv)");
    println!("cargo:rerun-if-changed={script}");
}
