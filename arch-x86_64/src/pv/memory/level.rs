//! Levels of page tables, L4 being the root.

use xenolith_core::memory::FrameType;

/// A level of page tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    /// Its entries map frames.
    L1 = 1,
    /// Its entries lead to L1 tables, and so on.
    L2 = 2,
    /// The level above.
    L3 = 3,
    /// The root.
    L4 = 4,
}

impl Level {
    /// The type of frames that are tables of this level.
    #[inline(always)]
    #[must_use]
    pub const fn frame_type(self) -> FrameType {
        match self {
            Self::L1 => FrameType::L1,
            Self::L2 => FrameType::L2,
            Self::L3 => FrameType::L3,
            Self::L4 => FrameType::L4,
        }
    }

    /// The level of tables of a type.
    #[inline(always)]
    #[must_use]
    pub const fn of(kind: FrameType) -> Option<Self> {
        match kind {
            FrameType::L1 => Some(Self::L1),
            FrameType::L2 => Some(Self::L2),
            FrameType::L3 => Some(Self::L3),
            FrameType::L4 => Some(Self::L4),
            _ => None,
        }
    }

    /// The level that entries of this one lead to; `None` for L1.
    #[must_use]
    pub const fn below(self) -> Option<Self> {
        match self {
            Self::L1 => None,
            Self::L2 => Some(Self::L1),
            Self::L3 => Some(Self::L2),
            Self::L4 => Some(Self::L3),
        }
    }

    /// The slot that an address has in tables of this level.
    #[inline(always)]
    #[must_use]
    pub const fn slot(self, address: u64) -> usize {
        (address >> (12 + 9 * (self as u32 - 1)) & 511) as usize
    }

    /// Whether a slot of a table is the hypervisor's.
    #[inline(always)]
    #[must_use]
    pub fn is_hypervisors(self, slot: usize) -> bool {
        self == Self::L4 && (256..=271).contains(&slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_slot_in_each_level() {
        let address = 0xffff_8812_3456_7000;
        let slots = [Level::L4, Level::L3, Level::L2, Level::L1].map(|l| l.slot(address));
        assert_eq!(slots, [0x110, 0x48, 0x1a2, 0x167]);
    }

    #[test]
    fn only_roots_have_slots_of_the_hypervisor() {
        assert!(Level::L4.is_hypervisors(256) && Level::L4.is_hypervisors(271));
        assert!(!Level::L4.is_hypervisors(255) && !Level::L4.is_hypervisors(272));
        assert!(!Level::L3.is_hypervisors(260));
    }
}
