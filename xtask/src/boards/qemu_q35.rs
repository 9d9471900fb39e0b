//! QEMU's q35 machine, started by `-kernel`.

use super::{Board, Modules, Stage};
use crate::arch::Arch;

pub(super) const BOARD: Board = Board {
    name: "qemu-q35",
    arch: Arch::X86_64,
    summary: "QEMU q35, x86-64 with SVM",
    drivers: &[],
    qemu: &["-machine", "q35", "-no-reboot"],
    cpu: Some("qemu64,+svm,+npt"),
    cpus: 4,
    most_cpus: 8,
    memory: 2048,
    memory_start: 0,
    words: "console=com1",
    modules: Modules::Multiboot,
    stage: Stage::Dom0,
    uboot: None,
};
