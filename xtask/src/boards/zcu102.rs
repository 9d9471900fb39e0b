//! Xilinx ZCU102: four Cortex-A53, GIC-400. The device tree is Linux's own for the board.

use super::{Board, Modules, Stage, UBoot};
use crate::arch::Arch;

pub(super) const BOARD: Board = Board {
    name: "zcu102",
    arch: Arch::Aarch64,
    summary: "Xilinx ZCU102 (Zynq UltraScale+), Cortex-A53, GICv2",
    drivers: &["gicv2", "cadence"],
    qemu: &["-machine", "xlnx-zcu102,virtualization=on"],
    cpu: None,
    cpus: 4,
    most_cpus: 4,
    memory: 2048,
    memory_start: 0,
    words: "console=dtuart",
    modules: Modules::DeviceTree {
        file: "xilinx/zynqmp-zcu102-rev1.0.dtb",
        corrections: include_str!("../../../dts/zcu102.dts"),
    },
    stage: Stage::Dom0,
    uboot: Some(UBoot {
        interface: "mmc",
        tree_address: None,
        firmware: None,
        disk: &[],
    }),
};
