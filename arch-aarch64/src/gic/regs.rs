//! Registers of the Generic Interrupt Controller: the memory-mapped frames of GICv2 (ARM IHI 0048B) and GICv3
//! (ARM IHI 0069), and the fields of the `ICC_*`/`ICH_*` system registers.

#![allow(missing_docs, reason = "the names are those of the manuals")]

use tock_registers::{
    register_bitfields, register_structs,
    registers::{ReadOnly, ReadWrite, WriteOnly},
};

register_bitfields![u32,
    /// Distributor control. Bit meanings are those of the non-secure view; with one security state bit 0 and 1
    /// enable group 0 and group 1.
    pub GICD_CTLR [
        ENABLE_GRP1 OFFSET(0) NUMBITS(1) [],
        ENABLE_GRP1A OFFSET(1) NUMBITS(1) [],
        ARE_NS OFFSET(4) NUMBITS(1) [],
        RWP OFFSET(31) NUMBITS(1) []
    ],
    /// What the distributor has.
    pub GICD_TYPER [
        IT_LINES OFFSET(0) NUMBITS(5) [],
        CPUS OFFSET(5) NUMBITS(3) [],
        SECURITY OFFSET(10) NUMBITS(1) [],
        ID_BITS OFFSET(19) NUMBITS(5) [],
        A3V OFFSET(24) NUMBITS(1) [],
        NO_1_OF_N OFFSET(25) NUMBITS(1) []
    ],
    /// Software generated interrupts on GICv2.
    pub GICD_SGIR [
        INTID OFFSET(0) NUMBITS(4) [],
        TARGETS OFFSET(16) NUMBITS(8) [],
        FILTER OFFSET(24) NUMBITS(2) [List = 0, Others = 1, Own = 2]
    ],
    /// Redistributor control.
    pub GICR_CTLR [
        RWP OFFSET(3) NUMBITS(1) []
    ],
    /// Redistributor power state.
    pub GICR_WAKER [
        PROCESSOR_SLEEP OFFSET(1) NUMBITS(1) [],
        CHILDREN_ASLEEP OFFSET(2) NUMBITS(1) []
    ],
    /// GICv2 CPU interface control, non-secure view.
    pub GICC_CTLR [
        ENABLE OFFSET(0) NUMBITS(1) [],
        EOI_MODE OFFSET(9) NUMBITS(1) []
    ],
    /// GICv2 acknowledge.
    pub GICC_IAR [
        INTID OFFSET(0) NUMBITS(10) [],
        CPU OFFSET(10) NUMBITS(3) []
    ],
    /// GICv2 hypervisor control.
    pub GICH_HCR [
        EN OFFSET(0) NUMBITS(1) [],
        UIE OFFSET(1) NUMBITS(1) [],
        LRENPIE OFFSET(2) NUMBITS(1) [],
        EOI_COUNT OFFSET(27) NUMBITS(5) []
    ],
    /// GICv2 hypervisor interface type.
    pub GICH_VTR [
        LIST_REGS OFFSET(0) NUMBITS(6) []
    ],
    /// GICv2 virtual machine control.
    pub GICH_VMCR [
        ENABLE_GRP0 OFFSET(0) NUMBITS(1) [],
        ENABLE_GRP1 OFFSET(1) NUMBITS(1) [],
        PRIORITY_MASK OFFSET(27) NUMBITS(5) []
    ]
];

register_bitfields![u64,
    /// What a redistributor belongs to.
    pub GICR_TYPER [
        VLPIS OFFSET(1) NUMBITS(1) [],
        LAST OFFSET(4) NUMBITS(1) [],
        PROCESSOR OFFSET(8) NUMBITS(16) [],
        AFFINITY OFFSET(32) NUMBITS(32) []
    ],
    /// Where a GICv3 SPI goes.
    pub GICD_IROUTER [
        AFF0 OFFSET(0) NUMBITS(8) [],
        AFF1 OFFSET(8) NUMBITS(8) [],
        AFF2 OFFSET(16) NUMBITS(8) [],
        ANY OFFSET(31) NUMBITS(1) [],
        AFF3 OFFSET(32) NUMBITS(8) []
    ],
    /// GICv3 software generated interrupts (`ICC_SGI1R_EL1`, `ICC_SGI0R_EL1`, `ICC_ASGI1R_EL1`).
    pub ICC_SGI1R [
        TARGETS OFFSET(0) NUMBITS(16) [],
        AFF1 OFFSET(16) NUMBITS(8) [],
        INTID OFFSET(24) NUMBITS(4) [],
        AFF2 OFFSET(32) NUMBITS(8) [],
        ALL_BUT_SELF OFFSET(40) NUMBITS(1) [],
        RANGE OFFSET(44) NUMBITS(4) [],
        AFF3 OFFSET(48) NUMBITS(8) []
    ],
    /// System register access to the CPU interface, at EL2.
    pub ICC_SRE [
        SRE OFFSET(0) NUMBITS(1) [],
        DFB OFFSET(1) NUMBITS(1) [],
        DIB OFFSET(2) NUMBITS(1) [],
        ENABLE OFFSET(3) NUMBITS(1) []
    ],
    /// CPU interface control.
    pub ICC_CTLR [
        CBPR OFFSET(0) NUMBITS(1) [],
        EOI_MODE OFFSET(1) NUMBITS(1) []
    ],
    /// GICv3 hypervisor control.
    pub ICH_HCR [
        EN OFFSET(0) NUMBITS(1) [],
        UIE OFFSET(1) NUMBITS(1) [],
        LRENPIE OFFSET(2) NUMBITS(1) [],
        EOI_COUNT OFFSET(27) NUMBITS(5) []
    ],
    /// GICv3 hypervisor interface type.
    pub ICH_VTR [
        LIST_REGS OFFSET(0) NUMBITS(5) [],
        PRE_BITS OFFSET(26) NUMBITS(3) [],
        PRI_BITS OFFSET(29) NUMBITS(3) []
    ],
    /// GICv3 virtual machine control.
    pub ICH_VMCR [
        ENABLE_GRP0 OFFSET(0) NUMBITS(1) [],
        ENABLE_GRP1 OFFSET(1) NUMBITS(1) [],
        PRIORITY_MASK OFFSET(24) NUMBITS(8) []
    ],
    /// A GICv3 list register.
    pub ICH_LR [
        INTID OFFSET(0) NUMBITS(32) [],
        PHYSICAL OFFSET(32) NUMBITS(13) [],
        EOI OFFSET(41) NUMBITS(1) [],
        PRIORITY OFFSET(48) NUMBITS(8) [],
        GROUP1 OFFSET(60) NUMBITS(1) [],
        HW OFFSET(61) NUMBITS(1) [],
        PENDING OFFSET(62) NUMBITS(1) [],
        ACTIVE OFFSET(63) NUMBITS(1) []
    ],
    /// A GICv2 list register, widened to 64 bits.
    pub GICH_LR [
        INTID OFFSET(0) NUMBITS(10) [],
        PHYSICAL OFFSET(10) NUMBITS(10) [],
        CPU OFFSET(10) NUMBITS(3) [],
        EOI OFFSET(19) NUMBITS(1) [],
        PRIORITY OFFSET(23) NUMBITS(5) [],
        PENDING OFFSET(28) NUMBITS(1) [],
        ACTIVE OFFSET(29) NUMBITS(1) [],
        GROUP1 OFFSET(30) NUMBITS(1) [],
        HW OFFSET(31) NUMBITS(1) []
    ]
];

register_structs! {
    /// The first 4 KiB of a distributor, alike in GICv2 and GICv3.
    #[allow(non_snake_case)]
    pub Gicd {
        (0x000 => pub CTLR: ReadWrite<u32, GICD_CTLR::Register>),
        (0x004 => pub TYPER: ReadOnly<u32, GICD_TYPER::Register>),
        (0x008 => pub IIDR: ReadOnly<u32>),
        (0x00c => _r0),
        (0x080 => pub IGROUPR: [ReadWrite<u32>; 32]),
        (0x100 => pub ISENABLER: [ReadWrite<u32>; 32]),
        (0x180 => pub ICENABLER: [ReadWrite<u32>; 32]),
        (0x200 => pub ISPENDR: [ReadWrite<u32>; 32]),
        (0x280 => pub ICPENDR: [ReadWrite<u32>; 32]),
        (0x300 => pub ISACTIVER: [ReadWrite<u32>; 32]),
        (0x380 => pub ICACTIVER: [ReadWrite<u32>; 32]),
        (0x400 => pub IPRIORITYR: [ReadWrite<u32>; 256]),
        (0x800 => pub ITARGETSR: [ReadWrite<u32>; 256]),
        (0xc00 => pub ICFGR: [ReadWrite<u32>; 64]),
        (0xd00 => _r1),
        (0xf00 => pub SGIR: WriteOnly<u32, GICD_SGIR::Register>),
        (0xf04 => _r2),
        (0x1000 => @END),
    },

    /// A GICv3 redistributor's first two frames (`RD_base` and `SGI_base`).
    #[allow(non_snake_case)]
    pub Gicr {
        (0x00000 => pub CTLR: ReadWrite<u32, GICR_CTLR::Register>),
        (0x00004 => pub IIDR: ReadOnly<u32>),
        (0x00008 => pub TYPER: ReadOnly<u64, GICR_TYPER::Register>),
        (0x00010 => _r0),
        (0x00014 => pub WAKER: ReadWrite<u32, GICR_WAKER::Register>),
        (0x00018 => _r1),
        (0x10080 => pub IGROUPR0: ReadWrite<u32>),
        (0x10084 => _r2),
        (0x10100 => pub ISENABLER0: ReadWrite<u32>),
        (0x10104 => _r3),
        (0x10180 => pub ICENABLER0: ReadWrite<u32>),
        (0x10184 => _r4),
        (0x10200 => pub ISPENDR0: ReadWrite<u32>),
        (0x10204 => _r5),
        (0x10280 => pub ICPENDR0: ReadWrite<u32>),
        (0x10284 => _r6),
        (0x10300 => pub ISACTIVER0: ReadWrite<u32>),
        (0x10304 => _r7),
        (0x10380 => pub ICACTIVER0: ReadWrite<u32>),
        (0x10384 => _r8),
        (0x10400 => pub IPRIORITYR: [ReadWrite<u32>; 8]),
        (0x10420 => _r9),
        (0x10c00 => pub ICFGR: [ReadWrite<u32>; 2]),
        (0x10c08 => _r10),
        (0x20000 => @END),
    },

    /// A GICv2 CPU interface.
    #[allow(non_snake_case)]
    pub Gicc {
        (0x0000 => pub CTLR: ReadWrite<u32, GICC_CTLR::Register>),
        (0x0004 => pub PMR: ReadWrite<u32>),
        (0x0008 => pub BPR: ReadWrite<u32>),
        (0x000c => pub IAR: ReadOnly<u32, GICC_IAR::Register>),
        (0x0010 => pub EOIR: WriteOnly<u32>),
        (0x0014 => pub RPR: ReadOnly<u32>),
        (0x0018 => pub HPPIR: ReadOnly<u32, GICC_IAR::Register>),
        (0x001c => _r0),
        (0x00d0 => pub APR: [ReadWrite<u32>; 4]),
        (0x00e0 => _r1),
        (0x1000 => pub DIR: WriteOnly<u32>),
        (0x1004 => @END),
    },

    /// A GICv2 hypervisor interface.
    #[allow(non_snake_case)]
    pub Gich {
        (0x000 => pub HCR: ReadWrite<u32, GICH_HCR::Register>),
        (0x004 => pub VTR: ReadOnly<u32, GICH_VTR::Register>),
        (0x008 => pub VMCR: ReadWrite<u32, GICH_VMCR::Register>),
        (0x00c => _r0),
        (0x010 => pub MISR: ReadOnly<u32>),
        (0x014 => _r1),
        (0x020 => pub EISR: [ReadOnly<u32>; 2]),
        (0x028 => _r2),
        (0x030 => pub ELRSR: [ReadOnly<u32>; 2]),
        (0x038 => _r3),
        (0x0f0 => pub APR: ReadWrite<u32>),
        (0x0f4 => _r4),
        (0x100 => pub LR: [ReadWrite<u32>; 64]),
        (0x200 => @END),
    }
}
