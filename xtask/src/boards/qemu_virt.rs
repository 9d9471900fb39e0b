//! QEMU's `virt` machine with GICv3: the default.

use super::{Board, Modules, Stage, UBoot};
use crate::arch::Arch;

pub(super) const BOARD: Board = Board {
    name: "qemu-virt",
    arch: Arch::Aarch64,
    summary: "QEMU virt, Cortex-A57, GICv3",
    drivers: &["gicv3", "pl011"],
    qemu: &["-machine", "virt,virtualization=on,gic-version=3"],
    cpu: Some("cortex-a57"),
    cpus: 4,
    most_cpus: 64,
    memory: 2048,
    memory_start: 0x4000_0000,
    words: "console=dtuart",
    modules: Modules::GuestLoader,
    stage: Stage::Dom0,
    uboot: Some(UBOOT),
};

/// U-Boot of this machine, with either interrupt controller.
pub(super) const UBOOT: UBoot = UBoot {
    interface: "virtio",
    tree_address: Some("fdt_addr"),
    firmware: Some(("-bios", "qemu_arm64/u-boot.bin")),
    disk: UBOOT_DISK,
};

/// The disk of [`UBOOT`].
pub(super) const UBOOT_DISK: &[&str] = &[
    "-drive",
    "if=none,id=disk,format=raw,file={image}",
    "-device",
    "virtio-blk-device,drive=disk",
];
