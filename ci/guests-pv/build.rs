//! Says that these are PV guests (`cfg(pv)`) and hands their linker script to the linker.

fn main() {
    let os = std::env::var("CARGO_CFG_TARGET_OS").unwrap_or_default();
    let dir = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    let script = format!("{dir}/guest-pv.ld");
    if os == "none" {
        println!("cargo:rustc-link-arg-bins=-T{script}");
    }
    println!("cargo:rustc-check-cfg=cfg(pv)");
    println!("cargo:rustc-cfg=pv");
    println!("cargo:rerun-if-changed={script}");
}
