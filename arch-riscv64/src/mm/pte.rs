//! Page-table entries of Sv39 and Sv48, which are the same (RISC-V Privileged Architecture, "Sv39: Page-Based 39-bit
//! Virtual-Memory System" and "Sv48").

use xenolith_arch_common::{Access, Entry};

/// log2 bytes of the largest block: 1 GiB.
pub const LARGEST_SHIFT: u32 = 30;

pub(super) const VALID: u64 = 1 << 0;
pub(super) const READ: u64 = 1 << 1;
pub(super) const WRITE: u64 = 1 << 2;
pub(super) const EXECUTE: u64 = 1 << 3;
const GLOBAL: u64 = 1 << 5;
// CPUs may fault instead of setting these two themselves, so they are set from the start.
pub(super) const ACCESSED: u64 = 1 << 6;
pub(super) const DIRTY: u64 = 1 << 7;
pub(super) const PPN_SHIFT: u32 = 10;
pub(super) const PPN: u64 = 0x003f_ffff_ffff_fc00;

/// Text of the image.
pub const TEXT: u64 = VALID | READ | EXECUTE | GLOBAL | ACCESSED;
/// Constants, and what is only read.
pub const READ_ONLY: u64 = VALID | READ | GLOBAL | ACCESSED;
/// Data. Devices too: their memory attributes come from the platform, not from the entry.
pub const DATA: u64 = READ_ONLY | WRITE | DIRTY;
/// A pointer to the next table.
pub const POINTER: u64 = VALID;

/// The entry for a physical address with these bits.
#[must_use]
pub const fn entry(pa: u64, bits: u64) -> u64 {
    (pa >> 12) << PPN_SHIFT | bits
}

/// The entry that maps `pa`.
#[must_use]
pub const fn leaf(pa: u64, access: Access) -> u64 {
    entry(
        pa,
        match access {
            Access::Ram | Access::Device => DATA,
            Access::RamReadOnly => READ_ONLY,
        },
    )
}

/// What an entry says.
#[must_use]
pub const fn decode(entry: u64) -> Entry {
    if entry & VALID == 0 {
        Entry::Empty
    } else if entry & (READ | WRITE | EXECUTE) == 0 {
        Entry::Table((entry & PPN) >> PPN_SHIFT << 12)
    } else {
        Entry::Leaf
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_decoded() {
        assert_eq!(decode(0), Entry::Empty);
        assert_eq!(
            decode(entry(0x8765_4000, POINTER)),
            Entry::Table(0x8765_4000)
        );
        for access in [Access::Ram, Access::RamReadOnly, Access::Device] {
            assert_eq!(decode(leaf(0x8765_4000, access)), Entry::Leaf);
        }
    }

    #[test]
    fn nothing_is_writable_and_executable() {
        for bits in [TEXT, READ_ONLY, DATA] {
            assert_ne!(bits & (WRITE | EXECUTE), WRITE | EXECUTE);
        }
        assert_eq!(leaf(0, Access::Ram) & EXECUTE, 0);
        assert_eq!(leaf(0, Access::RamReadOnly) & (WRITE | EXECUTE), 0);
    }
}
