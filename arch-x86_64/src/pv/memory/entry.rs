//! Page-table entries as guests may write them (Intel SDM, volume 3, 4.5; `xen.h`, `mmu_update`).
//!
//! Guest kernel and guest user both run in ring 3, so every entry gets `USER`; bit 52 remembers which leaf entries the guest
//! wanted for its kernel. Leaf entries of guest user become global, those of the kernel never: the switch from kernel to user
//! loads another root, and nothing of the kernel's may outlive it in the TLB.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use xenolith_hal::Mfn;

/// The entry is used by the CPU. One without this bit may hold anything.
pub const PRESENT: u64 = 1 << 0;
/// Writing is allowed.
pub const WRITABLE: u64 = 1 << 1;
/// Ring 3 may use it.
pub const USER: u64 = 1 << 2;
/// Cache attribute.
pub const PWT: u64 = 1 << 3;
/// Cache attribute.
pub const PCD: u64 = 1 << 4;
/// The CPU used the entry.
pub const ACCESSED: u64 = 1 << 5;
/// The CPU wrote through the entry.
pub const DIRTY: u64 = 1 << 6;
/// In L1 entries a cache attribute; elsewhere a large page.
pub const PAT: u64 = 1 << 7;
/// Kept in the TLB when another root is loaded.
pub const GLOBAL: u64 = 1 << 8;
/// For guests to use.
pub const AVAILABLE: u64 = 7 << 9;
/// The guest wanted this leaf entry for its kernel.
pub const GUEST_KERNEL: u64 = 1 << 52;
/// For guests to use, `GUEST_KERNEL` among them.
pub const AVAILABLE_HIGH: u64 = 0x3ff << 52;
/// The frame is a translated domain's: such frames are never page tables, and nothing counts who writes to them. Set by the
/// hypervisor alone, so that what the entry holds follows from the entry.
pub const UNTYPED: u64 = 1 << 62;
/// Not to be executed.
pub const NO_EXECUTE: u64 = 1 << 63;
/// Where it leads.
pub const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// How the frame is cached.
pub const CACHE: u64 = PWT | PCD | PAT;
/// What no entry that leads to a table may have: a large page, cache attributes, `GLOBAL`.
pub const REFUSED_IN_TABLES: u64 = CACHE | GLOBAL;
/// What may change in an entry without a look at where it leads.
pub const SOFT: u64 = NO_EXECUTE | AVAILABLE_HIGH | AVAILABLE | GLOBAL | DIRTY | ACCESSED | USER;
/// What the CPU sets.
pub const BY_CPU: u64 = ACCESSED | DIRTY;

/// How many entries are looked at in one go: tables are mostly empty.
pub const CHUNK: usize = 8;

/// Whether the CPU uses any of some entries.
#[inline(always)]
#[must_use]
pub fn any_present(entries: &[AtomicU64; CHUNK]) -> bool {
    let all = entries.iter().fold(0, |all, word| all | word.load(Relaxed));
    all & PRESENT != 0
}

/// Whether an entry holds a use of its frame as writable memory.
#[inline(always)]
#[must_use]
pub const fn holds_writing(entry: u64) -> bool {
    entry & (WRITABLE | UNTYPED) == WRITABLE
}

/// The frame that an entry leads to.
#[inline(always)]
#[must_use]
pub const fn frame(entry: u64) -> Mfn {
    Mfn((entry & ADDRESS) >> 12)
}

/// A leaf entry as the CPU shall see it. The mark of the hypervisor's own is not the guest's to set.
#[inline(always)]
#[must_use]
pub const fn leaf(entry: u64) -> u64 {
    if entry & PRESENT == 0 {
        entry
    } else if entry & USER == 0 || entry & GUEST_KERNEL != 0 {
        entry & !(GLOBAL | UNTYPED) | GUEST_KERNEL | USER
    } else {
        entry & !UNTYPED | GLOBAL
    }
}

/// An entry that leads to a table as the CPU shall see it.
#[inline(always)]
#[must_use]
pub const fn pointer(entry: u64) -> u64 {
    if entry & PRESENT == 0 {
        entry
    } else {
        entry | USER
    }
}

/// Two entries differ at most in what the CPU sets.
#[inline(always)]
#[must_use]
pub const fn same_but_for_cpu(a: u64, b: u64) -> bool {
    (a ^ b) & !BY_CPU == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_present_entry_is_for_ring_3_and_others_stay_as_they_are() {
        for entry in [0, 0x1234_5000, !PRESENT, AVAILABLE] {
            assert_eq!((leaf(entry), pointer(entry)), (entry, entry));
        }
        for entry in [PRESENT, PRESENT | WRITABLE, PRESENT | USER] {
            assert!(leaf(entry) & USER != 0 && pointer(entry) & USER != 0);
        }
    }

    #[test]
    fn user_pages_are_global_and_kernel_pages_never() {
        assert_eq!(leaf(PRESENT | USER), PRESENT | USER | GLOBAL);
        let kernel = PRESENT | USER | GUEST_KERNEL;
        for entry in [PRESENT, PRESENT | GLOBAL, kernel, kernel | GLOBAL] {
            assert_eq!(leaf(entry), kernel);
        }
    }

    #[test]
    fn an_entry_that_the_guest_read_and_writes_back_stays_the_same() {
        for entry in [
            PRESENT,
            PRESENT | USER,
            PRESENT | GLOBAL | NO_EXECUTE | 0x5000,
        ] {
            assert_eq!(leaf(leaf(entry)), leaf(entry));
            assert_eq!(pointer(pointer(entry)), pointer(entry));
        }
    }

    #[test]
    fn what_changes_without_a_look_leads_to_the_same_frame_with_the_same_rights() {
        assert_eq!(SOFT & (ADDRESS | PRESENT | WRITABLE | CACHE | UNTYPED), 0);
        let all = SOFT | ADDRESS | PRESENT | WRITABLE | CACHE | UNTYPED;
        assert_eq!(all, u64::MAX);
    }
}
