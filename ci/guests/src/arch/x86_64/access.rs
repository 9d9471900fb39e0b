//! Loads and stores that are one instruction each, for device registers and for memory that others write.

use core::arch::asm;

macro_rules! mmio {
    ($read:ident, $write:ident, $type:ty, $class:ident, $load:literal, $store:literal) => {
        /// One device read; a single instruction.
        pub fn $read(address: u64) -> $type {
            let value: $type;
            // SAFETY: one load that the test means to do; a fault is caught or ends the guest.
            unsafe { asm!($load, out($class) value, in(reg) address, options(nostack)) };
            value
        }

        /// One device write; a single instruction.
        pub fn $write(address: u64, value: $type) {
            // SAFETY: one store that the test means to do; a fault is caught or ends the guest.
            unsafe { asm!($store, in($class) value, in(reg) address, options(nostack)) };
        }
    };
}

mmio!(
    read8,
    write8,
    u8,
    reg_byte,
    "mov {0}, [{1}]",
    "mov [{1}], {0}"
);
mmio!(
    read16,
    write16,
    u16,
    reg,
    "mov {0:x}, [{1}]",
    "mov [{1}], {0:x}"
);
mmio!(
    read32,
    write32,
    u32,
    reg,
    "mov {0:e}, [{1}]",
    "mov [{1}], {0:e}"
);
mmio!(
    read64,
    write64,
    u64,
    reg,
    "mov {0}, [{1}]",
    "mov [{1}], {0}"
);
