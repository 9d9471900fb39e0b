//! Instructions that no Rust function has: CPUID, model-specific and control registers, ports.

use core::arch::asm;
use core::arch::x86_64::{__cpuid_count, CpuidResult};

/// Model-specific registers that the runtime uses.
#[allow(missing_docs)]
pub mod msr {
    pub const APIC_BASE: u32 = 0x1b;
    pub const TSC_DEADLINE: u32 = 0x6e0;
    pub const X2APIC: u32 = 0x800;
    pub const EFER: u32 = 0xc000_0080;
    pub const GS_BASE: u32 = 0xc000_0101;
}

/// CPUID of a leaf and subleaf.
pub fn cpuid(leaf: u32, subleaf: u32) -> CpuidResult {
    __cpuid_count(leaf, subleaf)
}

/// Reads a model-specific register; one that is not there faults.
pub fn rdmsr(index: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: a read that the test means to do; a fault is caught or ends the guest.
    unsafe { asm!("rdmsr", in("ecx") index, out("eax") low, out("edx") high, options(nostack)) };
    u64::from(high) << 32 | u64::from(low)
}

/// Writes a model-specific register.
pub fn wrmsr(index: u32, value: u64) {
    // SAFETY: a write that the test means to do; a fault is caught or ends the guest.
    unsafe {
        asm!("wrmsr", in("ecx") index, in("eax") value as u32, in("edx") (value >> 32) as u32, options(nostack))
    };
}

macro_rules! ports {
    ($read:ident, $write:ident, $type:ty, $in:literal, $out:literal, $register:tt) => {
        /// One port read.
        pub fn $read(port: u16) -> $type {
            let value: $type;
            // SAFETY: a port read that the test means to do.
            unsafe { asm!($in, in("dx") port, out($register) value, options(nostack)) };
            value
        }

        /// One port write.
        pub fn $write(port: u16, value: $type) {
            // SAFETY: a port write that the test means to do.
            unsafe { asm!($out, in("dx") port, in($register) value, options(nostack)) };
        }
    };
}

ports!(in8, out8, u8, "in al, dx", "out dx, al", "al");
ports!(in16, out16, u16, "in ax, dx", "out dx, ax", "ax");
ports!(in32, out32, u32, "in eax, dx", "out dx, eax", "eax");

macro_rules! control {
    ($read:ident, $write:ident, $load:literal, $store:literal) => {
        /// Reads the control register.
        pub fn $read() -> u64 {
            let value: u64;
            // SAFETY: a register read.
            unsafe { asm!($load, out(reg) value, options(nostack)) };
            value
        }

        /// Writes the control register; what the CPU refuses faults.
        pub fn $write(value: u64) {
            // SAFETY: a write that the test means to do; code and stack stay mapped where they are.
            unsafe { asm!($store, in(reg) value, options(nostack)) };
        }
    };
}

control!(cr0, set_cr0, "mov {}, cr0", "mov cr0, {}");
control!(cr2, set_cr2, "mov {}, cr2", "mov cr2, {}");
control!(cr3, set_cr3, "mov {}, cr3", "mov cr3, {}");
control!(cr4, set_cr4, "mov {}, cr4", "mov cr4, {}");
control!(cr8, set_cr8, "mov {}, cr8", "mov cr8, {}");

/// RFLAGS.
pub fn flags() -> u64 {
    let flags: u64;
    // SAFETY: pushes and pops one word.
    unsafe { asm!("pushfq", "pop {}", out(reg) flags, options(preserves_flags)) };
    flags
}
