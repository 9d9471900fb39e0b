//! Register numbers and layouts of the local APIC (Intel SDM, volume 3, 11.4 to 11.12).
//!
//! A register is numbered by its offset in memory divided by 16, which is also its distance from MSR 0x800.

#![allow(missing_docs, reason = "the names are those of the manuals")]

use tock_registers::{LocalRegisterCopy, register_bitfields};

/// Register numbers.
pub mod number {
    pub const ID: u32 = 0x02;
    pub const VERSION: u32 = 0x03;
    pub const TASK_PRIORITY: u32 = 0x08;
    pub const ARBITRATION_PRIORITY: u32 = 0x09;
    pub const PROCESSOR_PRIORITY: u32 = 0x0a;
    pub const END_OF_INTERRUPT: u32 = 0x0b;
    pub const REMOTE_READ: u32 = 0x0c;
    pub const LOGICAL_DESTINATION: u32 = 0x0d;
    pub const DESTINATION_FORMAT: u32 = 0x0e;
    pub const SPURIOUS: u32 = 0x0f;
    pub const IN_SERVICE: u32 = 0x10;
    pub const TRIGGER_MODE: u32 = 0x18;
    pub const REQUEST: u32 = 0x20;
    pub const ERROR_STATUS: u32 = 0x28;
    pub const COMMAND: u32 = 0x30;
    pub const COMMAND_HIGH: u32 = 0x31;
    pub const LVT_TIMER: u32 = 0x32;
    pub const LVT_ERROR: u32 = 0x37;
    pub const TIMER_INITIAL: u32 = 0x38;
    pub const TIMER_CURRENT: u32 = 0x39;
    pub const TIMER_DIVIDE: u32 = 0x3e;
    pub const SELF_IPI: u32 = 0x3f;
}

/// Version 0x14 (integrated), six entries in the local vector table, no suppression of the EOI broadcast.
pub const VERSION: u32 = 0x0005_0014;

register_bitfields![u32,
    /// Spurious-interrupt vector register.
    pub SPURIOUS [
        VECTOR OFFSET(0) NUMBITS(8) [],
        ENABLE OFFSET(8) NUMBITS(1) [],
        FOCUS_OFF OFFSET(9) NUMBITS(1) []
    ],
    /// An entry of the local vector table.
    pub LVT [
        VECTOR OFFSET(0) NUMBITS(8) [],
        DELIVERY OFFSET(8) NUMBITS(3) [Fixed = 0, Smi = 2, Nmi = 4, Init = 5, ExtInt = 7],
        STATUS OFFSET(12) NUMBITS(1) [],
        POLARITY OFFSET(13) NUMBITS(1) [],
        REMOTE_IRR OFFSET(14) NUMBITS(1) [],
        TRIGGER OFFSET(15) NUMBITS(1) [],
        MASKED OFFSET(16) NUMBITS(1) [],
        PERIODIC OFFSET(17) NUMBITS(1) []
    ],
    /// Low half of the interrupt command register.
    pub COMMAND [
        VECTOR OFFSET(0) NUMBITS(8) [],
        DELIVERY OFFSET(8) NUMBITS(3) [],
        LOGICAL OFFSET(11) NUMBITS(1) [],
        STATUS OFFSET(12) NUMBITS(1) [],
        ASSERT OFFSET(14) NUMBITS(1) [],
        LEVEL OFFSET(15) NUMBITS(1) [],
        SHORTHAND OFFSET(18) NUMBITS(2) [None = 0, Own = 1, Everyone = 2, Others = 3]
    ],
    /// Error status register.
    pub ERROR [
        SENT_ILLEGAL_VECTOR OFFSET(5) NUMBITS(1) [],
        RECEIVED_ILLEGAL_VECTOR OFFSET(6) NUMBITS(1) [],
        ILLEGAL_REGISTER OFFSET(7) NUMBITS(1) []
    ]
];

register_bitfields![u64,
    /// IA32_APIC_BASE.
    pub BASE [
        BOOT_CPU OFFSET(8) NUMBITS(1) [],
        X2APIC OFFSET(10) NUMBITS(1) [],
        ENABLE OFFSET(11) NUMBITS(1) [],
        ADDRESS OFFSET(12) NUMBITS(40) []
    ]
];

/// Value of an entry of the local vector table.
pub type Lvt = LocalRegisterCopy<u32, LVT::Register>;
/// Value of the low half of the interrupt command register.
pub type Command = LocalRegisterCopy<u32, COMMAND::Register>;
/// Value of IA32_APIC_BASE.
pub type Base = LocalRegisterCopy<u64, BASE::Register>;

/// Bits that each entry of the local vector table keeps: timer, thermal, performance, two pins, error.
pub const LVT_WRITABLE: [u32; 6] = [
    0x0003_00ff,
    0x0001_07ff,
    0x0001_07ff,
    0x0001_a7ff,
    0x0001_a7ff,
    0x0001_00ff,
];
/// Bits of the spurious-interrupt vector register that can be written.
pub const SPURIOUS_WRITABLE: u32 = 0x3ff;
/// Bits of the interrupt command register that can be written: all but the delivery status.
pub const COMMAND_WRITABLE: u32 = 0x000c_cfff;
