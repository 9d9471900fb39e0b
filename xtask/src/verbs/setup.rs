//! `cargo xtask setup`: installs what building, running and testing need, or names it.
//!
//! A check costs one call of dpkg; apt runs only when something is missing.

use std::path::Path;

use anyhow::Result;

use crate::arch::Arch;
use crate::debian::install;
use crate::process;
use crate::toolchain::{self, Toolchain};

/// What running and testing need: Debian package, and the program that shows it is there on other systems.
const TOOLS: &[(&str, &str)] = &[
    ("bochs", "bochs"),
    ("bochsbios", ""),
    ("device-tree-compiler", "dtc"),
    ("dpkg-dev", "dpkg-parsechangelog"),
    ("gcc", "gcc"),
    ("grub-common", "grub-mkrescue"),
    ("grub-efi-amd64-bin", ""),
    ("grub-pc-bin", ""),
    ("libxen-dev", ""),
    ("mtools", "mcopy"),
    ("opensbi", ""),
    ("ovmf", ""),
    ("qemu-system-arm", "qemu-system-aarch64"),
    ("qemu-system-misc", "qemu-system-riscv64"),
    ("qemu-system-x86", "qemu-system-x86_64"),
    ("u-boot-qemu", ""),
    ("u-boot-tools", "mkimage"),
    ("vgabios", ""),
    ("xorriso", "xorriso"),
    ("xz-utils", "xz"),
    ("zstd", "zstd"),
];

/// Installs everything for every verb and every architecture.
pub(crate) fn run() -> Result<()> {
    let mut wanted: Vec<&str> = TOOLS.iter().map(|(package, _)| *package).collect();
    let toolchain = Toolchain::find();
    if !toolchain.as_ref().is_ok_and(|found| !found.is_debian()) {
        wanted.extend(toolchain::DEBIAN_PACKAGES);
        wanted.push("rust-web-clippy");
    }
    let missing = install::missing(&wanted);
    if !missing.is_empty() {
        println!("missing: {}", missing.join(" "));
        install::install(&missing)?;
    }
    println!("toolchain for bare metal: {}", Toolchain::find()?.origin);
    println!("everything is installed");
    Ok(())
}

/// Programs, and files by their paths, that only some runs need: checked each time, installed if they can be.
pub(crate) fn ensure_these(wanted: &[&str]) -> Result<()> {
    let exists = |name: &&str| {
        process::exists(name) || Path::new(name).is_absolute() && Path::new(name).exists()
    };
    if wanted.iter().all(exists) {
        return Ok(());
    }
    run()
}

/// What `run` needs for one architecture: checked each time, installed if it can be.
pub(crate) fn ensure(arch: Arch) -> Result<()> {
    let toolchain = Toolchain::find().is_ok();
    if toolchain && process::exists(arch.qemu()) && process::exists("dtc") {
        return Ok(());
    }
    run()
}
