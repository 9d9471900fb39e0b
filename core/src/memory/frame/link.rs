//! The second word of a domain's own frame.
//!
//! Two forms. At rest, and for memory that is mapped or written: when a translation to the frame was last taken out of a page
//! table, by the clock of TLB flushes, so that whoever changes the frame's use knows which CPUs might still have it cached.
//! For a page table: how far its entries were checked, whether it is pinned, and its part in linear mappings. Only the CPU
//! that locks the record changes one form into the other.

use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};

use super::{Charge, Field, FrameRecord};

const STAMP: Field = Field { shift: 0, bits: 46 };

const ENTRIES: Field = Field { shift: 0, bits: 10 };
const HALF: Field = ENTRIES.after(1);
/// Linear entries elsewhere that lead here, or (from the middle down) linear entries in here that lead elsewhere.
const LINEAR: Field = Field {
    shift: 16,
    bits: 16,
};
const NO_LINEAR: u64 = 1 << 15;

const TABLE: Field = Field { shift: 61, bits: 1 };
const PINNED: Field = Field { shift: 62, bits: 1 };
const UNCACHED: Field = Field { shift: 63, bits: 1 };

/// How much of a page table is in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Entries below this one hold what they lead to.
    pub entries: usize,
    /// The entry after those holds a table that is itself only partly checked.
    pub half: bool,
}

/// What was known of a frame when it became a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rested {
    /// When a translation was last taken away.
    pub stamp: u64,
    /// It was mapped writable past the caches.
    pub uncached: bool,
}

impl FrameRecord {
    /// A translation to this frame was taken out of a page table; `now` is not before that. The caller still holds what the
    /// translation held.
    #[inline(always)]
    pub fn note_unmapped(&self, now: u64) {
        // The bit of a table stands above every stamp.
        if self.link.load(Relaxed) & (TABLE.one() | STAMP.max()) < now {
            self.stamp_slowly(now);
        }
    }

    #[inline(never)]
    fn stamp_slowly(&self, now: u64) {
        if self.state().charge() == Charge::Hypervisor {
            return;
        }
        let _ = self.link.fetch_update(AcqRel, Acquire, |link| {
            (TABLE.get(link) == 0 && STAMP.get(link) < now).then(|| STAMP.set(link, now))
        });
    }

    /// When a translation to this frame was last taken away. `None` when that is not noted: it may be at any moment.
    pub fn last_unmapped(&self) -> Option<u64> {
        let link = self.link.load(Acquire);
        let noted = TABLE.get(link) == 0 && self.state().charge() == Charge::Memory;
        noted.then(|| STAMP.get(link))
    }

    /// The frame gets a writable mapping past the caches; the caller holds it as writable.
    pub fn set_uncached(&self) {
        if self.state().charge() == Charge::Memory {
            self.link.fetch_or(UNCACHED.one(), AcqRel);
        }
    }

    /// Makes the word that of a page table; the caller has locked the record.
    pub fn begin_table(&self) -> Rested {
        let fresh = LINEAR.set(TABLE.one(), NO_LINEAR);
        let link = self.link.swap(fresh, AcqRel);
        Rested {
            stamp: STAMP.get(link),
            uncached: UNCACHED.get(link) != 0,
        }
    }

    pub(super) fn end_table(&self, stamp: u64) {
        self.link.store(STAMP.set(0, stamp), Release);
    }

    /// How much of the table is in use; for the one who has locked the record.
    pub fn progress(&self) -> Progress {
        let link = self.link.load(Acquire);
        Progress {
            entries: ENTRIES.get(link) as usize,
            half: HALF.get(link) != 0,
        }
    }

    /// Notes how much of the table is in use; for the one who has locked the record.
    pub fn set_progress(&self, progress: Progress) {
        let change = |link| {
            let link = ENTRIES.set(link, progress.entries as u64);
            Some(HALF.set(link, progress.half.into()))
        };
        let _ = self.link.fetch_update(AcqRel, Acquire, change);
    }

    /// Marks a table as pinned; false when it was. The caller holds the reference that the pin keeps then.
    #[must_use]
    pub fn pin(&self) -> bool {
        PINNED.get(self.link.fetch_or(PINNED.one(), AcqRel)) == 0
    }

    /// Takes the pin away; true when there was one, and the caller has its reference now. The caller holds the table.
    #[must_use]
    pub fn unpin(&self) -> bool {
        let change =
            |link| (TABLE.get(link) & PINNED.get(link) != 0).then_some(link & !PINNED.one());
        self.link.fetch_update(AcqRel, Acquire, change).is_ok()
    }

    /// Whether it is a pinned table.
    pub fn is_pinned(&self) -> bool {
        let link = self.link.load(Acquire);
        TABLE.get(link) & PINNED.get(link) != 0
    }

    fn step_linear(&self, from: impl Fn(u64) -> bool, step: impl Fn(u64) -> u64) -> bool {
        let change = |link| {
            let count = LINEAR.get(link);
            (TABLE.get(link) != 0 && from(count)).then(|| LINEAR.set(link, step(count)))
        };
        self.link.fetch_update(AcqRel, Acquire, change).is_ok()
    }

    /// A linear entry elsewhere is to lead here. False when this table has linear entries of its own, so that such mappings
    /// are one table deep.
    #[must_use]
    pub fn begin_linear_use(&self) -> bool {
        self.step_linear(|n| (NO_LINEAR..LINEAR.max()).contains(&n), |n| n + 1)
    }

    /// Such an entry is gone.
    pub fn end_linear_use(&self) {
        let known = self.step_linear(|n| n > NO_LINEAR, |n| n - 1);
        debug_assert!(known, "a linear use ends that never began");
    }

    /// A linear entry is to be made in this table. False when others lead here.
    #[must_use]
    pub fn begin_linear_entry(&self) -> bool {
        self.step_linear(|n| (1..=NO_LINEAR).contains(&n), |n| n - 1)
    }

    /// Such an entry is gone.
    pub fn end_linear_entry(&self) {
        let known = self.step_linear(|n| n < NO_LINEAR, |n| n + 1);
        debug_assert!(known, "a linear entry ends that never began");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DomId;

    fn table() -> FrameRecord {
        let record = FrameRecord::new();
        record.set_owned(DomId(1), Charge::Memory);
        assert_eq!(record.begin_table().stamp, 0);
        record
    }

    #[test]
    fn a_stamp_only_moves_forward_and_leaves_tables_alone() {
        let record = FrameRecord::new();
        record.set_owned(DomId(1), Charge::Memory);
        for (now, then) in [(5, 5), (3, 5), (9, 9)] {
            record.note_unmapped(now);
            assert_eq!(record.last_unmapped(), Some(then));
        }
        record.set_uncached();
        let rested = record.begin_table();
        assert_eq!((rested.stamp, rested.uncached), (9, true));
        record.note_unmapped(20);
        assert_eq!(record.last_unmapped(), None);
        record.end_table(12);
        assert_eq!(record.last_unmapped(), Some(12));
    }

    #[test]
    fn a_shown_frame_keeps_the_place_where_it_is_shown() {
        let record = FrameRecord::new();
        record.set_owned(DomId(1), Charge::Hypervisor);
        record.set_shown_at(Some(xenolith_hal::Gfn(7)));
        record.note_unmapped(1 << 40);
        record.set_uncached();
        assert_eq!(record.shown_at(), Some(xenolith_hal::Gfn(7)));
        assert_eq!(record.last_unmapped(), None);
    }

    #[test]
    fn progress_pin_and_linear_count_do_not_touch_each_other() {
        let record = table();
        assert!(record.pin() && !record.pin() && record.is_pinned());
        let progress = Progress {
            entries: 512,
            half: true,
        };
        record.set_progress(progress);
        assert!(record.begin_linear_use());
        assert_eq!(record.progress(), progress);
        assert!(!record.begin_linear_entry(), "it is used by others");
        record.end_linear_use();
        assert!(record.begin_linear_entry() && !record.begin_linear_use());
        record.end_linear_entry();
        assert!(record.unpin() && !record.unpin());
        assert_eq!(record.progress(), progress);
    }
}
