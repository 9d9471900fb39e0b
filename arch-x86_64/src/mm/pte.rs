//! Page-table entries (AMD64 Architecture Programmer's Manual, volume 2, 5.3; Intel SDM, volume 3, 4.5).

use xenolith_arch_common::{Access, Entry};

/// Table levels.
pub const LEVELS: u32 = 4;
/// log2 bytes of the largest block: 2 MiB, which every CPU has.
pub const LARGEST_SHIFT: u32 = 21;

const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const WRITE_THROUGH: u64 = 1 << 3;
const CACHE_DISABLE: u64 = 1 << 4;
const USER: u64 = 1 << 2;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Text of the image.
pub const TEXT: u64 = PRESENT | ACCESSED;
/// Constants, and what is only read.
pub const READ_ONLY: u64 = PRESENT | ACCESSED | NO_EXECUTE;
/// Data.
pub const DATA: u64 = READ_ONLY | WRITABLE | DIRTY;
/// Registers of devices: not cached (PAT entry 3 as after reset).
const DEVICE: u64 = DATA | WRITE_THROUGH | CACHE_DISABLE;
/// A pointer to the next table.
pub const POINTER: u64 = PRESENT | WRITABLE | ACCESSED;
/// A 2 MiB block that guests in ring 3 may read.
pub const GUEST_READ_ONLY_BLOCK: u64 = READ_ONLY | USER | LARGE;
/// A pointer to a table for guests in ring 3.
pub const GUEST_POINTER: u64 = PRESENT | USER | ACCESSED;
/// A 2 MiB block for the few instructions that run at their physical address.
pub const BLOCK_TEXT: u64 = TEXT | LARGE;

/// The entry that maps `pa` at a level (0 is the root).
#[must_use]
pub const fn leaf(pa: u64, level: u32, access: Access) -> u64 {
    let large = if level + 1 < LEVELS { LARGE } else { 0 };
    pa | large
        | match access {
            Access::Ram => DATA,
            Access::RamReadOnly => READ_ONLY,
            Access::Device => DEVICE,
        }
}

/// What an entry found at a level says.
#[must_use]
pub const fn decode(entry: u64, level: u32) -> Entry {
    if entry & PRESENT == 0 {
        Entry::Empty
    } else if level + 1 == LEVELS || entry & LARGE != 0 {
        Entry::Leaf
    } else {
        Entry::Table(entry & ADDRESS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_decoded() {
        assert_eq!(decode(0, 0), Entry::Empty);
        assert_eq!(decode(0x1234_5000 | POINTER, 2), Entry::Table(0x1234_5000));
        for access in [Access::Ram, Access::RamReadOnly, Access::Device] {
            assert_eq!(decode(leaf(0x1234_5000, 3, access), 3), Entry::Leaf);
            assert_eq!(decode(leaf(0x1220_0000, 2, access), 2), Entry::Leaf);
        }
    }

    #[test]
    fn nothing_is_writable_and_executable() {
        let executable = |entry: u64| entry & NO_EXECUTE == 0;
        assert!(executable(TEXT) && TEXT & WRITABLE == 0);
        for access in [Access::Ram, Access::RamReadOnly, Access::Device] {
            assert!(!executable(leaf(0, 3, access)));
        }
    }
}
