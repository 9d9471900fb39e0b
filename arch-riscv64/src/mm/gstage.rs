//! G-stage tables: guest-physical to machine addresses (RISC-V Privileged Architecture, "Two-Stage Address Translation").
//!
//! Entries are those of Sv39 and Sv48; the root is four tables in one piece. Every access of a guest counts as one of
//! user mode here. What a frame is must be told by few bits: the rights, of which only own memory may be executed, and the
//! two bits that are left to software.

use xenolith_arch_common::second_level::{Format, Shape, Slot};
use xenolith_hal::{Mfn, Order, P2mType};

use super::pte::{self, ACCESSED, DIRTY, EXECUTE, POINTER, PPN, PPN_SHIFT, READ, VALID, WRITE};

const USER: u64 = 1 << 4;
const SOFTWARE_SHIFT: u32 = 8;
const SOFTWARE: u64 = 3 << SOFTWARE_SHIFT;
/// Every leaf has these: no CPU has to set the last two itself.
const LEAF: u64 = VALID | READ | USER | ACCESSED | DIRTY;
/// By these a leaf's kind is known.
const KIND: u64 = WRITE | EXECUTE | SOFTWARE;

const fn kind_bits(kind: P2mType) -> u64 {
    match kind {
        P2mType::RamRw => WRITE | EXECUTE,
        P2mType::RamRo => EXECUTE,
        P2mType::MmioDirect => WRITE,
        P2mType::ForeignRw => WRITE | 1 << SOFTWARE_SHIFT,
        P2mType::ForeignRo => 1 << SOFTWARE_SHIFT,
        P2mType::GrantRw => WRITE | 2 << SOFTWARE_SHIFT,
        P2mType::GrantRo => 2 << SOFTWARE_SHIFT,
        P2mType::XenShared => WRITE | 3 << SOFTWARE_SHIFT,
    }
}

/// All kinds there are.
const KINDS: [P2mType; 8] = [
    P2mType::RamRw,
    P2mType::RamRo,
    P2mType::MmioDirect,
    P2mType::ForeignRw,
    P2mType::ForeignRo,
    P2mType::GrantRw,
    P2mType::GrantRo,
    P2mType::XenShared,
];

fn kind_of(entry: u64) -> Option<P2mType> {
    KINDS
        .into_iter()
        .find(|kind| kind_bits(*kind) == entry & KIND)
}

/// Entries of Sv39x4 and Sv48x4.
pub enum GStageFormat {}

impl Format for GStageFormat {
    // A CPU may use the old or the new one until the fence, and both are right till then.
    const BREAK_BEFORE_MAKE: bool = false;
    const MFN_LIMIT: u64 = 1 << 44;

    fn table(table: Mfn) -> u64 {
        pte::entry(table.base().0, POINTER)
    }

    fn leaf(mfn: Mfn, kind: P2mType, _: Order) -> u64 {
        pte::entry(mfn.base().0, LEAF | kind_bits(kind))
    }

    fn decode(entry: u64, _: Order) -> Slot {
        if entry & VALID == 0 {
            return Slot::Empty;
        }
        let frame = Mfn((entry & PPN) >> PPN_SHIFT);
        if entry & (READ | WRITE | EXECUTE) == 0 {
            return Slot::Table(frame);
        }
        match kind_of(entry) {
            Some(kind) => Slot::Leaf(frame, kind),
            None => Slot::Empty,
        }
    }
}

/// A mode of the G-stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Three levels, 41-bit guest-physical addresses.
    Sv39x4,
    /// Four levels, 50 bits.
    Sv48x4,
}

impl Mode {
    /// What `hgatp.MODE` says.
    #[must_use]
    pub const fn number(self) -> u64 {
        match self {
            Self::Sv39x4 => 8,
            Self::Sv48x4 => 9,
        }
    }

    /// Guest-physical addresses are below this.
    #[must_use]
    pub const fn end(self) -> u64 {
        1 << self.shape().bits
    }

    /// The shape of its tables.
    #[must_use]
    pub const fn shape(self) -> Shape {
        let (bits, levels) = match self {
            Self::Sv39x4 => (41, 3),
            Self::Sv48x4 => (50, 4),
        };
        Shape {
            bits,
            levels,
            largest: 18,
        }
    }
}

/// `hgatp` for a root and a number in the TLB.
#[must_use]
pub const fn hgatp(mode: Mode, vmid: u16, root: Mfn) -> u64 {
    mode.number() << 60 | (vmid as u64 & 0x3fff) << 44 | root.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_comes_back_and_has_the_rights_that_it_should_have() {
        for kind in KINDS {
            let entry = GStageFormat::leaf(Mfn(0x1_2345), kind, 0);
            assert_eq!(
                GStageFormat::decode(entry, 0),
                Slot::Leaf(Mfn(0x1_2345), kind)
            );
            assert_eq!(entry & WRITE != 0, kind.writable(), "{kind:?}");
            let own = matches!(kind, P2mType::RamRw | P2mType::RamRo);
            assert_eq!(entry & EXECUTE != 0, own, "{kind:?}");
            // Writable and not readable is reserved, and the G-stage asks for the rights of user mode.
            assert_eq!(entry & (VALID | READ | USER), VALID | READ | USER);
        }
    }

    #[test]
    fn tables_and_holes_are_told_apart() {
        let table = GStageFormat::table(Mfn(0x8_0123));
        assert_eq!(GStageFormat::decode(table, 9), Slot::Table(Mfn(0x8_0123)));
        assert_eq!(GStageFormat::decode(0, 9), Slot::Empty);
    }

    #[test]
    fn the_roots_are_four_tables() {
        for mode in [Mode::Sv39x4, Mode::Sv48x4] {
            assert_eq!(mode.shape().root_order(), 2);
        }
        assert_eq!(
            hgatp(Mode::Sv39x4, 5, Mfn(0x8_0004)),
            8 << 60 | 5 << 44 | 0x8_0004
        );
    }
}
