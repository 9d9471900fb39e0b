//! Undoing tables: a frame's last use as a page table ends.
//!
//! What its entries held is dropped, from the last checked one down. Above L1 that stops between entries when an interrupt
//! waits; whoever holds the table goes on later.

use core::sync::atomic::Ordering::Relaxed;

use xenolith_core::memory::{Dropped, Ended, FrameRecord, FrameType, Progress};
use xenolith_hal::{Hal, Mfn};

use super::{AddressSpace, Level, Machine, PageTables, Stop, entry};

/// An interrupt waits, and the table is still held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unfinished;

impl<H: Hal, M: Machine<H>> PageTables<'_, H, M> {
    /// Drops a reference and a use of a table.
    pub(super) fn drop_table(self, record: &FrameRecord, mfn: Mfn) -> Result<(), Unfinished> {
        match record.release() {
            Ended::Kept => Ok(()),
            Ended::Whole | Ended::Partial => match Level::of(record.state().frame_type()) {
                Some(level) => self.undo(record, mfn, level),
                None => {
                    self.end(record, mfn);
                    Ok(())
                }
            },
        }
    }

    /// Undoes the entries of a table whose record the caller has locked, and ends its type.
    pub(super) fn undo(
        self,
        record: &FrameRecord,
        mfn: Mfn,
        level: Level,
    ) -> Result<(), Unfinished> {
        match level {
            Level::L1 => {
                if let Ok(words) = self.words(mfn) {
                    let (chunks, _) = words.as_chunks::<{ entry::CHUNK }>();
                    let used = chunks.iter().filter(|chunk| entry::any_present(chunk));
                    for chunk in used {
                        for word in chunk {
                            self.drop_leaf(word.load(Relaxed));
                        }
                    }
                }
            }
            _ => self.undo_pointers(record, mfn, level)?,
        }
        self.end(record, mfn);
        Ok(())
    }

    /// Ends the type of a frame whose entries hold nothing.
    pub(super) fn end(self, record: &FrameRecord, mfn: Mfn) {
        match record.end_type(self.hv.hal.tlb_stamp()) {
            Dropped::Kept => {}
            dropped => self.hv.frame_dropped(record, mfn, dropped),
        }
    }

    fn undo_pointers(self, record: &FrameRecord, mfn: Mfn, level: Level) -> Result<(), Unfinished> {
        let Ok(words) = self.words(mfn) else {
            return Ok(());
        };
        let Progress { entries, half } = record.progress();
        let left = |entries, half| {
            record.set_progress(Progress { entries, half });
            record.set_partial();
            Err(Unfinished)
        };
        let mut at_work = false;
        if half && let Some(word) = words.get(entries) {
            let child = entry::frame(word.load(Relaxed));
            if let Some(child_record) = self.hv.memory.record(child)
                && self.drop_table(child_record, child).is_err()
            {
                return left(entries, true);
            }
            at_work = true;
        }
        let (chunks, _) = words.as_chunks::<{ entry::CHUNK }>();
        let used = chunks
            .iter()
            .enumerate()
            .take(entries.div_ceil(entry::CHUNK))
            .rev()
            .filter(|(_, chunk)| entry::any_present(chunk))
            .flat_map(|(n, chunk)| {
                chunk
                    .iter()
                    .enumerate()
                    .rev()
                    .map(move |(m, word)| (n * entry::CHUNK + m, word))
            });
        for (slot, word) in used {
            let old = word.load(Relaxed);
            if slot >= entries || old & entry::PRESENT == 0 || level.is_hypervisors(slot) {
                continue;
            }
            if at_work && self.hv.hal.interrupt_waits() {
                return left(slot + 1, false);
            }
            at_work = true;
            if self.drop_pointer(old, level, record, mfn).is_err() {
                return left(slot, true);
            }
        }
        Ok(())
    }

    /// Drops what an entry held that led to a table. When that is not finished, the table alone is what is still held.
    pub(super) fn drop_pointer(
        self,
        old: u64,
        level: Level,
        record: &FrameRecord,
        mfn: Mfn,
    ) -> Result<(), Unfinished> {
        let child_mfn = entry::frame(old);
        let Some(child) = self.hv.memory.record(child_mfn) else {
            return Ok(());
        };
        if child.state().frame_type() == level.frame_type() {
            // Nothing of this level is held but by a linear entry.
            if child_mfn == mfn {
                return Ok(());
            }
            child.end_linear_use();
            record.end_linear_entry();
        }
        self.drop_table(child, child_mfn)
    }

    /// Drops a table; what is not finished is left to the vCPU.
    #[inline(always)]
    pub(super) fn let_go(self, record: &FrameRecord, mfn: Mfn, space: &AddressSpace) {
        if !record.release_one_of_many() {
            self.let_last_go(record, mfn, space);
        }
    }

    #[inline(never)]
    fn let_last_go(self, record: &FrameRecord, mfn: Mfn, space: &AddressSpace) {
        if self.drop_table(record, mfn).is_err() {
            space.push_leaving(mfn);
        }
    }

    /// Drops what a replaced entry held that led to a table; what is not finished is left to the vCPU.
    pub(super) fn let_pointer_go(
        self,
        old: u64,
        level: Level,
        record: &FrameRecord,
        mfn: Mfn,
        space: &AddressSpace,
    ) {
        if old & entry::PRESENT != 0 && self.drop_pointer(old, level, record, mfn).is_err() {
            space.push_leaving(entry::frame(old));
        }
    }

    /// Finishes what requests of the vCPU left.
    #[inline(always)]
    pub(super) fn finish_leaving(self, space: &AddressSpace) -> Result<(), Stop> {
        match space.has_leaving() {
            false => Ok(()),
            true => self.finish_leaving_slowly(space),
        }
    }

    #[cold]
    #[inline(never)]
    fn finish_leaving_slowly(self, space: &AddressSpace) -> Result<(), Stop> {
        while let Some(mfn) = space.last_leaving() {
            if let Some(record) = self.hv.memory.record(mfn)
                && self.drop_table(record, mfn).is_err()
            {
                return Err(Stop::Preempted);
            }
            space.pop_leaving();
        }
        Ok(())
    }

    /// Whether a frame is a table of a level now, whatever its state.
    pub(super) fn is_of_type(record: &FrameRecord, kind: FrameType) -> bool {
        let state = record.state();
        state.frame_type() == kind && state.type_count() > 0
    }
}
