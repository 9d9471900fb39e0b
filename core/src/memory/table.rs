//! The frame table: one record per frame of RAM, in banks as the machine has them.
//!
//! The architecture gives the memory of the records at boot, zeroed. Frames outside every bank (devices, holes) have
//! no record and can therefore never be owned, referenced or freed.

use arrayvec::ArrayVec;
use xenolith_hal::Mfn;

use super::FrameRecord;

/// Most banks of RAM.
pub const MAX_BANKS: usize = 32;

/// A NUMA node of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Node(pub u8);

/// A run of RAM and its records.
#[derive(Clone, Copy)]
pub struct RamBank {
    /// Its first frame.
    pub first: Mfn,
    /// A zeroed record for each of its frames.
    pub records: &'static [FrameRecord],
    /// The node that it is near to.
    pub node: Node,
}

impl RamBank {
    /// The frame after its last.
    pub fn end(&self) -> Mfn {
        self.first.plus(self.records.len() as u64)
    }
}

/// The banks cannot be used as given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadBanks {
    /// More than [`MAX_BANKS`], or more frames than 32 bits count (16 TiB).
    TooMany,
    /// Two banks share a frame, or one reaches past the end of the address space.
    Overlap,
}

/// A frame by its place in the table: small enough for two in one word. 0 stands for "none" in lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Index(pub(super) u32);

/// A record in the table.
#[derive(Clone, Copy)]
pub(super) struct Slot {
    pub(super) record: &'static FrameRecord,
    pub(super) mfn: Mfn,
    pub(super) index: Index,
    pub(super) node: Node,
}

/// A record per frame of RAM.
pub struct FrameTable {
    /// The one with most frames, which most questions are about.
    largest: RamBank,
    banks: ArrayVec<RamBank, MAX_BANKS>,
}

impl FrameTable {
    /// A table over banks of RAM, which may come in any order.
    pub fn new(banks: &[RamBank]) -> Result<Self, BadBanks> {
        let mut sorted = ArrayVec::<RamBank, MAX_BANKS>::new();
        for bank in banks.iter().filter(|bank| !bank.records.is_empty()) {
            sorted.try_push(*bank).map_err(|_| BadBanks::TooMany)?;
        }
        sorted.sort_unstable_by_key(|bank| bank.first);
        let mut previous_end = Mfn(0);
        for bank in &sorted {
            if bank.first < previous_end || bank.end().0 >> 52 != 0 {
                return Err(BadBanks::Overlap);
            }
            previous_end = bank.end();
        }
        let total: u64 = sorted.iter().map(|bank| bank.records.len() as u64).sum();
        if total >= u64::from(u32::MAX) {
            return Err(BadBanks::TooMany);
        }
        const NONE: RamBank = RamBank {
            first: Mfn(0),
            records: &[],
            node: Node(0),
        };
        let largest = sorted.iter().max_by_key(|bank| bank.records.len());
        Ok(Self {
            largest: largest.copied().unwrap_or(NONE),
            banks: sorted,
        })
    }

    /// The banks, ascending.
    pub fn banks(&self) -> &[RamBank] {
        &self.banks
    }

    /// Frames of RAM.
    pub fn frames(&self) -> u64 {
        self.banks.iter().map(|b| b.records.len() as u64).sum()
    }

    /// The frame after the last frame of RAM.
    pub fn end(&self) -> Mfn {
        self.banks.last().map_or(Mfn(0), RamBank::end)
    }

    /// The record of a frame; `None` when it is not RAM.
    #[inline(always)]
    pub fn record(&self, mfn: Mfn) -> Option<&'static FrameRecord> {
        let offset = mfn.0.wrapping_sub(self.largest.first.0);
        match self.largest.records.get(offset as usize) {
            Some(record) => Some(record),
            None => self.record_elsewhere(mfn),
        }
    }

    #[inline(never)]
    fn record_elsewhere(&self, mfn: Mfn) -> Option<&'static FrameRecord> {
        self.banks.iter().find_map(|bank| {
            let offset = mfn.0.checked_sub(bank.first.0)?;
            bank.records.get(usize::try_from(offset).ok()?)
        })
    }

    pub(super) fn slot(&self, mfn: Mfn) -> Option<Slot> {
        let mut before = 1;
        for bank in &self.banks {
            let offset = mfn.0.checked_sub(bank.first.0)?;
            if let Some(record) = usize::try_from(offset)
                .ok()
                .and_then(|offset| bank.records.get(offset))
            {
                return Some(Slot {
                    record,
                    mfn,
                    index: Index(before + offset as u32),
                    node: bank.node,
                });
            }
            before += bank.records.len() as u32;
        }
        None
    }

    pub(super) fn slot_at(&self, index: Index) -> Option<Slot> {
        let mut offset = index.0.checked_sub(1)? as usize;
        for bank in &self.banks {
            if let Some(record) = bank.records.get(offset) {
                return Some(Slot {
                    record,
                    mfn: bank.first.plus(offset as u64),
                    index,
                    node: bank.node,
                });
            }
            offset -= bank.records.len();
        }
        None
    }

    /// Whether both frames lie in the same bank.
    pub(super) fn same_bank(&self, a: Mfn, b: Mfn) -> bool {
        self.banks.iter().any(|bank| {
            let inside = |mfn: Mfn| (bank.first..bank.end()).contains(&mfn);
            inside(a) && inside(b)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::{boxed::Box, vec::Vec};

    fn bank(first: u64, frames: usize) -> RamBank {
        let records: Vec<_> = (0..frames).map(|_| FrameRecord::new()).collect();
        RamBank {
            first: Mfn(first),
            records: Box::leak(records.into_boxed_slice()),
            node: Node(0),
        }
    }

    #[test]
    fn frames_and_indices_lead_to_each_other_across_banks() {
        let Ok(table) = FrameTable::new(&[bank(0x900, 4), bank(0x100, 8)]) else {
            panic!("good banks")
        };
        for mfn in (0x100..0x108).chain(0x900..0x904).map(Mfn) {
            let slot = table.slot(mfn).unwrap();
            let back = table.slot_at(slot.index).unwrap();
            assert_eq!(back.mfn, mfn);
            assert!(core::ptr::eq(back.record, table.record(mfn).unwrap()));
        }
        for hole in [0, 0xff, 0x108, 0x8ff, 0x904, u64::MAX] {
            assert!(table.slot(Mfn(hole)).is_none());
        }
        assert!(table.slot_at(Index(0)).is_none());
        assert!(table.slot_at(Index(13)).is_none());
        assert_eq!((table.end(), table.frames()), (Mfn(0x904), 12));
    }

    #[test]
    fn overlapping_banks_are_refused() {
        let bad = FrameTable::new(&[bank(0x100, 8), bank(0x107, 1)]);
        assert_eq!(bad.err(), Some(BadBanks::Overlap));
        let far = FrameTable::new(&[bank((1 << 52) - 1, 2)]);
        assert_eq!(far.err(), Some(BadBanks::Overlap));
    }
}
