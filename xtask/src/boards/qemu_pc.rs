//! QEMU's i440fx machine, the oldest PC that it models, started by `-kernel`.

use super::{Board, Modules, Stage};
use crate::arch::Arch;

pub(super) const BOARD: Board = Board {
    name: "qemu-pc",
    arch: Arch::X86_64,
    summary: "QEMU pc (i440fx), x86-64 with SVM",
    drivers: &[],
    qemu: &["-machine", "pc", "-no-reboot"],
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
