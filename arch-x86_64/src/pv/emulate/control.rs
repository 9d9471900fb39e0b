//! Control registers of PV guests: the kernel has a few bits to itself, and sees of the others what the hypervisor runs with.

use crate::cpuid::pv::cr4::{DE, FSGSBASE, OSXSAVE, TSD};

/// CR0: the next use of floating point is told to the kernel.
pub const TASK_SWITCHED: u64 = 1 << 3;

/// Bits of CR4 that the kernel chooses.
const CHOSEN: u64 = TSD | DE | FSGSBASE | OSXSAVE;
/// Bits that hold for the CPU as the kernel chose them; XSAVE is on for all.
const LOADED: u64 = TSD | DE | FSGSBASE;
/// PAE, MCE, OSFXSR, OSXMMEXCPT: shown as the hypervisor has them.
const SHOWN: u64 = 1 << 5 | 1 << 6 | 1 << 9 | 1 << 10;

/// What a kernel keeps of a value that it writes to CR4; what is not its own to choose is dropped, as on Xen. `has` are the bits
/// that its CPU has ([`crate::cpuid::Policy::pv_cr4`]).
#[inline]
#[must_use]
pub const fn chosen_cr4(written: u64, has: u64) -> u64 {
    written & CHOSEN & has
}

/// CR4 as the kernel reads it, under the CPU's own.
#[inline]
#[must_use]
pub const fn shown_cr4(chosen: u64, own: u64) -> u64 {
    chosen & CHOSEN | own & SHOWN
}

/// CR4 for the CPU while the guest is loaded.
#[inline]
#[must_use]
pub const fn loaded_cr4(chosen: u64, own: u64) -> u64 {
    own & !LOADED | chosen & LOADED
}

/// CR0 as the kernel reads it.
#[inline]
#[must_use]
pub const fn shown_cr0(own: u64, task_switched: bool) -> u64 {
    own & !TASK_SWITCHED | if task_switched { TASK_SWITCHED } else { 0 }
}

/// Whether a kernel may write a value to CR0, and whether floating point is off then: nothing else may change.
#[inline]
#[must_use]
pub const fn written_cr0(written: u64, own: u64) -> Option<bool> {
    match (written ^ own) & !TASK_SWITCHED {
        0 => Some(written & TASK_SWITCHED != 0),
        _ => None,
    }
}

/// The place where a debug register is kept. `None`: it does not exist with debugging extensions, and is another name without.
#[inline]
#[must_use]
pub const fn debug_register(number: u8, cr4: u64) -> Option<u32> {
    match number {
        0..=3 | 6 | 7 => Some(number as u32),
        4 | 5 if cr4 & DE == 0 => Some(number as u32 + 2),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN_CR0: u64 = 0x8005_0033;
    const OWN_CR4: u64 = 0x4_06f0;

    #[test]
    fn a_kernel_chooses_four_bits_and_sees_four_more() {
        let chosen = chosen_cr4(!0, CHOSEN);
        assert_eq!(shown_cr4(chosen, OWN_CR4), 0x5_066c);
        assert_eq!(shown_cr4(chosen_cr4(0, CHOSEN), OWN_CR4), 0x660);
        assert_eq!(shown_cr4(chosen_cr4(!0, TSD | DE), OWN_CR4), 0x66c);
    }

    #[test]
    fn what_the_hypervisor_needs_stays_on_in_the_cpu() {
        for bit in 0..64 {
            let chosen = chosen_cr4(1 << bit, CHOSEN);
            let loaded = loaded_cr4(chosen, OWN_CR4);
            assert_eq!(loaded & !LOADED, OWN_CR4 & !LOADED, "bit {bit}");
            assert_eq!(loaded & LOADED, 1 << bit & LOADED);
        }
    }

    #[test]
    fn another_guests_choice_does_not_stay() {
        let first = loaded_cr4(CHOSEN, OWN_CR4);
        assert_eq!(loaded_cr4(0, first), OWN_CR4);
    }

    #[test]
    fn only_the_task_switched_bit_of_cr0_can_be_written() {
        assert_eq!(written_cr0(OWN_CR0, OWN_CR0), Some(false));
        assert_eq!(written_cr0(OWN_CR0 | 8, OWN_CR0), Some(true));
        // The CPU's own bit is the guest's while it is loaded.
        assert_eq!(written_cr0(OWN_CR0, OWN_CR0 | 8), Some(false));
        for bit in (0..64).filter(|bit| *bit != 3) {
            assert_eq!(written_cr0(OWN_CR0 ^ 1 << bit, OWN_CR0), None, "bit {bit}");
        }
        assert_eq!(shown_cr0(OWN_CR0 | 8, false), OWN_CR0);
        assert_eq!(shown_cr0(OWN_CR0, true), OWN_CR0 | 8);
    }

    #[test]
    fn two_debug_registers_are_others_names_or_nothing() {
        assert_eq!(debug_register(4, 0), Some(6));
        assert_eq!(debug_register(5, 0), Some(7));
        assert_eq!(debug_register(4, DE), None);
        assert_eq!(debug_register(8, 0), None);
        assert_eq!(debug_register(7, DE), Some(7));
    }
}
