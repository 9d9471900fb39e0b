//! QEMU's `virt` machine with GICv2.

use super::{Board, Modules, Stage, qemu_virt};
use crate::arch::Arch;

pub(super) const BOARD: Board = Board {
    name: "qemu-virt-gicv2",
    arch: Arch::Aarch64,
    summary: "QEMU virt, Cortex-A57, GICv2",
    drivers: &["gicv2", "pl011"],
    qemu: &["-machine", "virt,virtualization=on,gic-version=2"],
    cpu: Some("cortex-a57"),
    cpus: 4,
    most_cpus: 8,
    memory: 2048,
    memory_start: 0x4000_0000,
    words: "console=dtuart",
    modules: Modules::GuestLoader,
    stage: Stage::Dom0,
    uboot: Some(qemu_virt::UBOOT),
};
