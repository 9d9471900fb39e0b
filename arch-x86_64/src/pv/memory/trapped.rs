//! Writes to page tables that trapped: the guest writes an L1 entry that it has mapped for reading, as if it were memory, and
//! the hypervisor does what it meant.
//!
//! A write of fewer than eight bytes changes those alone. What `cmpxchg` means is kept: the entry changes only if it is what
//! the guest expects, and the guest is told what it was.

use core::sync::atomic::Ordering::Relaxed;

use xenolith_core::{
    Errno,
    memory::{FrameRecord, FrameType},
};
use xenolith_hal::{Hal, Mfn};

use super::{AddressSpace, EntryPlace, Machine, PageTables, Rights, update::CpuBits};

/// A write that trapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrappedWrite {
    /// The frame that the address leads to.
    pub table: Mfn,
    /// Where in it, in bytes.
    pub offset: usize,
    /// What is written, in the lowest bytes.
    pub value: u64,
    /// How many bytes: 1, 2, 4 or 8.
    pub size: usize,
    /// For a compare-and-exchange: what these bytes must be.
    pub expected: Option<u64>,
}

/// What a trapped write came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// Done.
    Yes,
    /// The bytes were not as expected, but these, and stay.
    Differs(u64),
    /// The frame is no L1 table of the guest's: the fault is the guest's own.
    NotATable,
    /// The entry cannot be so: the fault is the guest's own.
    Refused(Errno),
}

impl<H: Hal, M: Machine<H>> PageTables<'_, H, M> {
    /// Whether a frame is an L1 table of a domain's in use, so that a write to it that faults is to be looked at.
    #[must_use]
    #[inline(always)]
    pub fn is_l1_table(self, record: &FrameRecord) -> bool {
        record.state().frame_type() == FrameType::L1 && record.state().validated()
    }

    /// What an entry is now.
    #[must_use]
    #[inline(always)]
    pub fn entry(self, place: EntryPlace) -> Option<u64> {
        Some(
            self.hv
                .hal
                .table(place.table)?
                .get(place.slot)?
                .load(Relaxed),
        )
    }

    /// Does a plain write of a whole entry that trapped. False: the fault is the guest's own.
    #[must_use]
    #[inline(always)]
    pub fn write_whole(
        self,
        place: EntryPlace,
        value: u64,
        rights: &Rights<'_, H>,
        space: &AddressSpace,
    ) -> bool {
        self.with_l1(place, rights.owner, space, |words| {
            let word = words.get(place.slot).ok_or(Errno::EINVAL)?;
            self.update_leaf(word, value, CpuBits::Replaced, rights)
        })
        .is_ok()
    }

    /// Does a write that trapped.
    pub fn write_trapped(
        self,
        write: TrappedWrite,
        rights: &Rights<'_, H>,
        space: &AddressSpace,
    ) -> Written {
        let TrappedWrite { offset, size, .. } = write;
        let (slot, inside) = (offset / 8, offset % 8);
        if !matches!(size, 1 | 2 | 4 | 8) || inside + size > 8 {
            return Written::Refused(Errno::EINVAL);
        }
        let Some(record) = self.hv.memory.record(write.table) else {
            return Written::NotATable;
        };
        if !self.is_l1_table(record) {
            return Written::NotATable;
        }
        let place = EntryPlace {
            table: write.table,
            slot,
        };
        let shift = inside * 8;
        let mask = u64::MAX >> (64 - size * 8) << shift;
        let done = self.with_l1(place, rights.owner, space, |words| {
            let word = words.get(slot).ok_or(Errno::EINVAL)?;
            loop {
                let old = word.load(Relaxed);
                if let Some(expected) = write.expected {
                    let seen = (old & mask) >> shift;
                    if seen != expected & mask >> shift {
                        return Ok(Written::Differs(seen));
                    }
                }
                let new = old & !mask | write.value << shift & mask;
                if self.swap_leaf(word, old, new, CpuBits::Replaced, rights)? {
                    return Ok(Written::Yes);
                }
            }
        });
        done.unwrap_or_else(Written::Refused)
    }

    /// The bytes of a table that a trapped instruction reads, for those that read and write.
    #[must_use]
    pub fn read_trapped(self, table: Mfn, slot: usize) -> Option<u64> {
        Some(self.words(table).ok()?.get(slot)?.load(Relaxed))
    }
}
