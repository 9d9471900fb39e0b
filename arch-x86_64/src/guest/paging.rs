//! What decides how a guest's linear addresses translate (Intel SDM, volume 3, 4.1).

use x86_64::registers::{
    control::{Cr0Flags, Cr4Flags},
    model_specific::EferFlags,
};

/// Registers of a vCPU, as its last exit left them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PagingState {
    /// CR0.
    pub cr0: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// EFER, with LMA as the CPU has it.
    pub efer: u64,
    /// Current privilege level.
    pub cpl: u8,
    /// RFLAGS.AC, which lets a kernel reach user pages under SMAP.
    pub ac: bool,
}

/// What CPUID tells the guest about its paging.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PagingLimits {
    /// Width of physical addresses; bits above are reserved in entries.
    pub physical_bits: u8,
    /// Whether there are 1 GiB pages.
    pub gigabyte_pages: bool,
}

impl PagingLimits {
    /// From a CPU's highest extended leaf, EDX of leaf 0x80000001, and EAX of leaf 0x80000008, which a CPU need not have: then an
    /// address has 36 bits (Intel SDM, volume 3, 4.1.4).
    #[must_use]
    pub const fn of_cpu(highest: u32, features: u32, sizes: u32) -> Self {
        const SIZES: u32 = 0x8000_0008;
        const GIGABYTE_PAGES: u32 = 1 << 26;
        Self {
            physical_bits: if highest >= SIZES { sizes as u8 } else { 36 },
            gigabyte_pages: features & GIGABYTE_PAGES != 0,
        }
    }
}

/// A way of paging.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PagingMode {
    /// Linear addresses are physical.
    Off,
    /// Two levels of 32-bit entries.
    TwoLevel,
    /// Three levels of 64-bit entries for 32-bit addresses.
    Pae,
    /// Long mode.
    FourLevel,
    /// Long mode with 57-bit addresses, which no guest is offered.
    FiveLevel,
}

/// What is to be done with an address, with the guest's own privilege.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// A load.
    Read,
    /// A store.
    Write,
    /// An instruction fetch.
    Fetch,
}

/// A page fault as the guest would take it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageFault {
    /// The linear address, for CR2.
    pub address: u64,
    /// The error code.
    pub code: u32,
}

const CR0: Cr0Flags = Cr0Flags::PAGING.union(Cr0Flags::WRITE_PROTECT);
const CR4: Cr4Flags = Cr4Flags::PAGE_SIZE_EXTENSION
    .union(Cr4Flags::PHYSICAL_ADDRESS_EXTENSION)
    .union(Cr4Flags::L5_PAGING)
    .union(Cr4Flags::SUPERVISOR_MODE_EXECUTION_PROTECTION)
    .union(Cr4Flags::SUPERVISOR_MODE_ACCESS_PREVENTION);
const EFER: EferFlags = EferFlags::LONG_MODE_ACTIVE.union(EferFlags::NO_EXECUTE_ENABLE);
const USER: u64 = 1 << 0;
const AC: u64 = 1 << 1;

// The bits of all of them lie side by side in one word.
const _: () = assert!(
    (CR0.bits() | CR4.bits() | EFER.bits() | USER | AC).count_ones()
        == CR0.bits().count_ones()
            + CR4.bits().count_ones()
            + EFER.bits().count_ones()
            + (USER | AC).count_ones()
);

impl PagingState {
    /// Everything but CR3 that a translation and its rights depend on, in one word.
    #[inline]
    #[must_use]
    pub const fn key(&self) -> u64 {
        let user = if self.is_user() { USER } else { 0 };
        let ac = if self.ac { AC } else { 0 };
        self.cr0 & CR0.bits() | self.cr4 & CR4.bits() | self.efer & EFER.bits() | user | ac
    }

    /// Whether accesses are a user's.
    #[inline]
    #[must_use]
    pub const fn is_user(&self) -> bool {
        self.cpl == 3
    }

    /// How addresses translate.
    #[must_use]
    pub const fn mode(&self) -> PagingMode {
        if self.cr0 & Cr0Flags::PAGING.bits() == 0 {
            PagingMode::Off
        } else if !self.has(Cr4Flags::PHYSICAL_ADDRESS_EXTENSION) {
            PagingMode::TwoLevel
        } else if self.efer & EferFlags::LONG_MODE_ACTIVE.bits() == 0 {
            PagingMode::Pae
        } else if self.has(Cr4Flags::L5_PAGING) {
            PagingMode::FiveLevel
        } else {
            PagingMode::FourLevel
        }
    }

    /// Whether a control of CR4 is on.
    #[must_use]
    pub const fn has(&self, flag: Cr4Flags) -> bool {
        self.cr4 & flag.bits() != 0
    }

    /// CR0.WP: a kernel's stores obey read-only pages.
    #[must_use]
    pub const fn write_protect(&self) -> bool {
        self.cr0 & Cr0Flags::WRITE_PROTECT.bits() != 0
    }

    /// EFER.NXE: entries can forbid execution.
    #[must_use]
    pub const fn no_execute(&self) -> bool {
        self.efer & EferFlags::NO_EXECUTE_ENABLE.bits() != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cpu_that_does_not_say_how_wide_its_addresses_are_has_36_bits() {
        // What a CPU says of a leaf that it has not is another leaf's.
        let bits = |highest| PagingLimits::of_cpu(highest, 0, 0x3028).physical_bits;
        assert_eq!(bits(0x8000_0008), 40);
        assert_eq!(bits(0x8000_001f), 40);
        assert_eq!(bits(0x8000_0007), 36);
    }
}
