//! Entries of nested tables: AMD's nested paging (APM volume 2, 15.25.5: page-table entries as user pages) and Intel's EPT
//! (SDM volume 3, 29.3.2). Four levels, 4 KiB and 2 MiB blocks, 1 GiB where the CPU has them.
//!
//! Memory is mapped write-back and leaves the rest to the guest's own memory types; pages shared with the hypervisor or
//! another domain stay write-back whatever the guest says, where the format can say so (EPT). Only the domain's own memory is
//! executable. Accessed and dirty bits are set from the start: the CPU never writes these tables.

use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

use xenolith_arch_common::second_level::{Format, Shape, Slot};
use xenolith_hal::{Mfn, Order, P2mType, PAGE_SHIFT};

const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// Bits 52 to 55 are the hypervisor's in both formats.
const KIND_SHIFT: u32 = 52;
const KIND: u64 = 0xf;
const LEVELS: u32 = 4;
const GUEST_BITS: u32 = 48;

/// The tables' shape on a CPU with physical addresses of `physical_bits`, with or without 1 GiB pages in nested tables.
#[must_use]
pub const fn shape(physical_bits: u32, gigabyte_pages: bool) -> Shape {
    let bits = if physical_bits < 32 {
        32
    } else if physical_bits > GUEST_BITS {
        GUEST_BITS
    } else {
        physical_bits
    };
    Shape {
        bits,
        levels: LEVELS,
        largest: if gigabyte_pages { 18 } else { 9 },
    }
}

const fn kind_bits(kind: P2mType) -> u64 {
    (kind as u64) << KIND_SHIFT
}

const fn kind_of(entry: u64) -> Option<P2mType> {
    P2mType::from_bits((entry >> KIND_SHIFT & KIND) as u8)
}

const fn is_executable(kind: P2mType) -> bool {
    matches!(kind, P2mType::RamRw | P2mType::RamRo)
}

const fn frame_of(entry: u64) -> Mfn {
    Mfn((entry & ADDRESS) >> PAGE_SHIFT)
}

const fn address_of(mfn: Mfn) -> u64 {
    mfn.0 << PAGE_SHIFT & ADDRESS
}

/// A leaf that is not ours (no type in its software bits) counts as absent.
const fn leaf_slot(entry: u64) -> Slot {
    match kind_of(entry) {
        Some(kind) => Slot::Leaf(frame_of(entry), kind),
        None => Slot::Empty,
    }
}

/// AMD's nested tables: long-mode entries. Memory types by the host's PAT as after reset.
pub enum Npt {}

mod npt {
    pub const PRESENT: u64 = 1 << 0;
    pub const WRITABLE: u64 = 1 << 1;
    /// Walks for the guest count as user accesses.
    pub const USER: u64 = 1 << 2;
    /// PAT entry 3: uncached, whatever the guest's own type is.
    pub const UNCACHED: u64 = 1 << 3 | 1 << 4;
    pub const ACCESSED: u64 = 1 << 5;
    pub const DIRTY: u64 = 1 << 6;
    pub const LARGE: u64 = 1 << 7;
    pub const NO_EXECUTE: u64 = 1 << 63;
}

impl Format for Npt {
    const BREAK_BEFORE_MAKE: bool = false;
    const MFN_LIMIT: u64 = 1 << 40;

    #[inline]
    fn table(table: Mfn) -> u64 {
        address_of(table) | npt::PRESENT | npt::WRITABLE | npt::USER | npt::ACCESSED
    }

    #[inline]
    fn leaf(mfn: Mfn, kind: P2mType, order: Order) -> u64 {
        let mut entry = address_of(mfn)
            | kind_bits(kind)
            | npt::PRESENT
            | npt::USER
            | npt::ACCESSED
            | npt::DIRTY;
        if kind.writable() {
            entry |= npt::WRITABLE;
        }
        if !is_executable(kind) {
            entry |= npt::NO_EXECUTE;
        }
        if kind == P2mType::MmioDirect {
            entry |= npt::UNCACHED;
        }
        if order > 0 {
            entry |= npt::LARGE;
        }
        entry
    }

    #[inline]
    fn decode(entry: u64, order: Order) -> Slot {
        if entry & npt::PRESENT == 0 {
            Slot::Empty
        } else if order == 0 || entry & npt::LARGE != 0 {
            leaf_slot(entry)
        } else {
            Slot::Table(frame_of(entry))
        }
    }
}

/// Intel's extended page tables.
pub enum Ept {}

mod ept {
    pub const READ: u64 = 1 << 0;
    pub const WRITE: u64 = 1 << 1;
    pub const EXECUTE: u64 = 1 << 2;
    pub const RIGHTS: u64 = READ | WRITE | EXECUTE;
    /// Memory type 6 in bits 3 to 5; type 0 is uncached.
    pub const WRITE_BACK: u64 = 6 << 3;
    pub const IGNORE_PAT: u64 = 1 << 6;
    pub const LARGE: u64 = 1 << 7;
    pub const ACCESSED: u64 = 1 << 8;
    pub const DIRTY: u64 = 1 << 9;
}

impl Format for Ept {
    const BREAK_BEFORE_MAKE: bool = false;
    const MFN_LIMIT: u64 = 1 << 40;

    #[inline]
    fn table(table: Mfn) -> u64 {
        address_of(table) | ept::RIGHTS | ept::ACCESSED
    }

    #[inline]
    fn leaf(mfn: Mfn, kind: P2mType, order: Order) -> u64 {
        let mut entry = address_of(mfn) | kind_bits(kind) | ept::READ | ept::ACCESSED | ept::DIRTY;
        if kind.writable() {
            entry |= ept::WRITE;
        }
        if is_executable(kind) {
            entry |= ept::EXECUTE;
        }
        entry |= match kind {
            P2mType::MmioDirect => 0,
            P2mType::RamRw | P2mType::RamRo => ept::WRITE_BACK,
            _ => ept::WRITE_BACK | ept::IGNORE_PAT,
        };
        if order > 0 {
            entry |= ept::LARGE;
        }
        entry
    }

    #[inline]
    fn decode(entry: u64, order: Order) -> Slot {
        if entry & ept::RIGHTS == 0 {
            Slot::Empty
        } else if order == 0 || entry & ept::LARGE != 0 {
            leaf_slot(entry)
        } else {
            Slot::Table(frame_of(entry))
        }
    }
}

static EPT: AtomicBool = AtomicBool::new(false);

/// The machine's tables are EPT's. Before the first table is made.
pub fn use_ept() {
    EPT.store(true, Relaxed);
}

/// The format of this machine's CPUs.
pub enum OfMachine {}

impl Format for OfMachine {
    const BREAK_BEFORE_MAKE: bool = Npt::BREAK_BEFORE_MAKE || Ept::BREAK_BEFORE_MAKE;
    const MFN_LIMIT: u64 = Npt::MFN_LIMIT;

    fn table(table: Mfn) -> u64 {
        if EPT.load(Relaxed) {
            Ept::table(table)
        } else {
            Npt::table(table)
        }
    }

    fn leaf(mfn: Mfn, kind: P2mType, order: Order) -> u64 {
        if EPT.load(Relaxed) {
            Ept::leaf(mfn, kind, order)
        } else {
            Npt::leaf(mfn, kind, order)
        }
    }

    // What both write reads the same: every entry of EPT that is made here can be read, which is the bit for present.
    #[inline]
    fn decode(entry: u64, order: Order) -> Slot {
        Npt::decode(entry, order)
    }
}

const _: () = assert!(
    npt::PRESENT == ept::READ && npt::LARGE == ept::LARGE && Npt::MFN_LIMIT == Ept::MFN_LIMIT
);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn a_kind() -> impl Strategy<Value = P2mType> {
        (1u8..=8).prop_map(|bits| P2mType::from_bits(bits).unwrap())
    }

    fn round_trip<F: Format>(mfn: u64, kind: P2mType, order: Order) {
        let mfn = Mfn(mfn >> order << order);
        assert_eq!(
            F::decode(F::leaf(mfn, kind, order), order),
            Slot::Leaf(mfn, kind)
        );
        if order > 0 {
            assert_eq!(F::decode(F::table(mfn), order), Slot::Table(mfn));
        }
        assert_eq!(F::decode(0, order), Slot::Empty);
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(mfn in 0..Npt::MFN_LIMIT, kind in a_kind(), size in 0u32..3) {
            round_trip::<Npt>(mfn, kind, size * 9);
            round_trip::<Ept>(mfn, kind, size * 9);
        }

        #[test]
        fn entries_of_either_format_read_the_same(mfn in 0..Npt::MFN_LIMIT, kind in a_kind(), size in 0u32..3) {
            let (mfn, order) = (Mfn(mfn >> (size * 9) << (size * 9)), size * 9);
            let entries = [Npt::leaf(mfn, kind, order), Ept::leaf(mfn, kind, order)];
            for entry in entries {
                assert_eq!(OfMachine::decode(entry, order), Slot::Leaf(mfn, kind));
            }
            if order > 0 {
                assert_eq!(OfMachine::decode(Ept::table(mfn), order), Slot::Table(mfn));
            }
        }

        #[test]
        fn no_entry_is_beyond_decoding(entry: u64, size in 0u32..4) {
            let slots = [Npt::decode(entry, size * 9), Ept::decode(entry, size * 9)];
            for slot in slots {
                assert!(size > 0 || !matches!(slot, Slot::Table(_)));
            }
        }

        #[test]
        fn rights_follow_the_type(mfn in 0..Npt::MFN_LIMIT, kind in a_kind()) {
            let (npt, ept) = (Npt::leaf(Mfn(mfn), kind, 0), Ept::leaf(Mfn(mfn), kind, 0));
            assert_eq!(npt & npt::WRITABLE != 0, kind.writable());
            assert_eq!(ept & ept::WRITE != 0, kind.writable());
            assert_eq!(npt & npt::NO_EXECUTE == 0, ept & ept::EXECUTE != 0);
            // What EPT calls a misconfiguration: writable or executable, not readable.
            assert_ne!(ept & ept::READ, 0);
        }
    }

    #[test]
    fn entries_are_as_the_manuals_draw_them() {
        let frame = Mfn(0x12345);
        assert_eq!(Npt::table(frame), 0x1234_5027);
        assert_eq!(Ept::table(frame), 0x1234_5107);
        assert_eq!(Npt::leaf(frame, P2mType::RamRw, 0), 0x0010_0000_1234_5067);
        assert_eq!(Ept::leaf(frame, P2mType::RamRw, 0), 0x0010_0000_1234_5337);
        let block = Mfn(0x12200);
        assert_eq!(Ept::leaf(block, P2mType::RamRo, 9), 0x0020_0000_1220_03b5);
        let device = Npt::leaf(block, P2mType::MmioDirect, 9);
        assert_eq!(device, 0x8030_0000_1220_00ff);
        let device = Ept::leaf(frame, P2mType::MmioDirect, 0);
        assert_eq!(device, 0x0030_0000_1234_5303);
    }

    #[test]
    fn the_guest_reaches_no_further_than_the_cpu() {
        assert_eq!(shape(40, true).limit(), 1 << 28);
        assert_eq!(shape(52, true).limit(), 1 << 36);
        assert_eq!(shape(36, false).root_order(), 0);
        assert_eq!(shape(0, false).limit(), 1 << 20);
    }
}
