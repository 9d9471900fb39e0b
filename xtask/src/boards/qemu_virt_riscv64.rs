//! QEMU's RISC-V `virt` machine, started by OpenSBI in HS-mode.

use super::{Board, Modules, Stage, UBoot, qemu_virt};
use crate::arch::Arch;

pub(super) const BOARD: Board = Board {
    name: "qemu-virt-riscv64",
    arch: Arch::Riscv64,
    summary: "QEMU virt, RISC-V with H extension, OpenSBI",
    drivers: &[],
    qemu: &["-machine", "virt,aclint=on", "-bios", "default"],
    cpu: Some("rv64"),
    cpus: 4,
    most_cpus: 8,
    memory: 2048,
    memory_start: 0x8000_0000,
    words: "",
    modules: Modules::Plain,
    stage: Stage::Domain,
    uboot: Some(UBoot {
        interface: "virtio",
        tree_address: Some("fdtcontroladdr"),
        // OpenSBI starts it.
        firmware: Some(("-kernel", "qemu-riscv64_smode/uboot.elf")),
        disk: qemu_virt::UBOOT_DISK,
    }),
};
