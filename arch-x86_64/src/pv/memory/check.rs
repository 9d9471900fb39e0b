//! Checking tables: a frame becomes a page table.
//!
//! Each entry takes what it leads to and is written back as the CPU shall see it. An L1 table is checked in one go; above,
//! the check stops between entries when an interrupt waits, and the frame's record says how far it came. At least one entry
//! is checked each time, so it ends however often it is stopped.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use xenolith_core::{
    Errno,
    memory::{Claim, FrameRecord, FrameType, Progress, Reclaim, Refused},
};
use xenolith_hal::{CacheOp, Hal, Mfn, PAGE_SIZE};

use super::{ENTRIES, Level, Machine, PageTables, Rights, Stop, Words, entry, pages::write_back};

/// The entries that the CPU uses, from one on, with their slots.
fn present(words: &Words, from: usize) -> impl Iterator<Item = (usize, &AtomicU64)> {
    let (chunks, _) = words.as_chunks::<{ entry::CHUNK }>();
    let skipped = from / entry::CHUNK;
    chunks
        .iter()
        .enumerate()
        .skip(skipped)
        .filter(|(_, chunk)| entry::any_present(chunk))
        .flat_map(|(n, chunk)| (n * entry::CHUNK..).zip(chunk))
        .filter(move |(slot, word)| *slot >= from && word.load(Relaxed) & entry::PRESENT != 0)
}

/// A table is not ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Halt {
    /// Why.
    pub(super) stop: Stop,
    /// The one who asked holds it all the same: to go on later, or to drop it.
    pub(super) held: bool,
}

impl Halt {
    pub(super) fn failed(errno: Errno) -> Self {
        Self {
            stop: Stop::Failed(errno),
            held: false,
        }
    }

    fn preempted(held: bool) -> Self {
        Self {
            stop: Stop::Preempted,
            held,
        }
    }
}

impl<H: Hal, M: Machine<H>> PageTables<'_, H, M> {
    /// Takes a reference and a use of a frame as a table of a level, checking it if nobody did.
    pub(super) fn acquire(
        self,
        record: &FrameRecord,
        mfn: Mfn,
        level: Level,
        rights: &Rights<'_, H>,
    ) -> Result<(), Halt> {
        loop {
            match record.claim(rights.owner, level.frame_type()) {
                Ok(Claim::Ready) => return Ok(()),
                Ok(Claim::Fresh(before)) => {
                    self.begin(record, mfn, before, level.frame_type());
                    return self.check(record, mfn, level, rights);
                }
                Ok(Claim::Partial) => return self.check(record, mfn, level, rights),
                Err(Refused::Locked) if self.hv.hal.interrupt_waits() => {
                    return Err(Halt::preempted(false));
                }
                Err(Refused::Locked) => self.hv.hal.relax(),
                Err(_) => return Err(Halt::failed(Errno::EINVAL)),
            }
        }
    }

    /// The frame's record is locked for a new type: no CPU may use the frame as what it was.
    pub(super) fn begin(self, record: &FrameRecord, mfn: Mfn, before: FrameType, now: FrameType) {
        let rested = record.begin_table();
        if before != FrameType::None && before != now && rested.stamp != 0 {
            let owner = record.state().owner();
            self.hv.hal.flush_stale(owner, rested.stamp);
        }
        if rested.uncached {
            // What the guest wrote past the caches is what is checked, and what the CPU will walk.
            let all = CacheOp::CleanInvalidate;
            self.hv.hal.cache_maintenance(mfn, 0, PAGE_SIZE, all);
        }
    }

    /// Goes on with a table that the caller holds.
    pub(super) fn resume(
        self,
        record: &FrameRecord,
        mfn: Mfn,
        level: Level,
        rights: &Rights<'_, H>,
    ) -> Result<(), Halt> {
        loop {
            match record.reclaim() {
                Reclaim::Ready => return Ok(()),
                Reclaim::Partial => return self.check(record, mfn, level, rights),
                Reclaim::Locked if self.hv.hal.interrupt_waits() => {
                    return Err(Halt::preempted(true));
                }
                Reclaim::Locked => self.hv.hal.relax(),
            }
        }
    }

    /// Checks a table whose record the caller has locked.
    fn check(
        self,
        record: &FrameRecord,
        mfn: Mfn,
        level: Level,
        rights: &Rights<'_, H>,
    ) -> Result<(), Halt> {
        match level {
            Level::L1 => self.check_leaves(record, mfn, rights),
            _ => self.check_pointers(record, mfn, level, rights),
        }
    }

    fn check_leaves(
        self,
        record: &FrameRecord,
        mfn: Mfn,
        rights: &Rights<'_, H>,
    ) -> Result<(), Halt> {
        let failed = match self.words(mfn) {
            Err(errno) => errno,
            Ok(words) => match self.take_leaves(words, rights) {
                Ok(()) => {
                    record.set_valid();
                    return Ok(());
                }
                Err((taken, errno)) => {
                    for word in words.iter().take(taken) {
                        self.drop_leaf(word.load(Relaxed));
                    }
                    errno
                }
            },
        };
        self.end(record, mfn);
        Err(Halt::failed(failed))
    }

    /// Takes what all entries of an L1 table hold, or says at which one that ends.
    fn take_leaves(self, words: &Words, rights: &Rights<'_, H>) -> Result<(), (usize, Errno)> {
        let (chunks, _) = words.as_chunks::<{ entry::CHUNK }>();
        for (chunk, first) in chunks.iter().zip((0..).step_by(entry::CHUNK)) {
            if !entry::any_present(chunk) {
                continue;
            }
            for (word, slot) in chunk.iter().zip(first..) {
                let old = word.load(Relaxed);
                if old & entry::PRESENT == 0 {
                    continue;
                }
                let new = self.take_leaf(old, rights).map_err(|errno| (slot, errno))?;
                if new != old && !write_back(word, old, new) {
                    self.drop_leaf(new);
                    return Err((slot, Errno::EINVAL));
                }
            }
        }
        Ok(())
    }

    fn check_pointers(
        self,
        record: &FrameRecord,
        mfn: Mfn,
        level: Level,
        rights: &Rights<'_, H>,
    ) -> Result<(), Halt> {
        let words = match self.words(mfn) {
            Ok(words) => words,
            Err(errno) => return Err(self.give_up(record, mfn, level, errno)),
        };
        let Progress { entries, mut half } = record.progress();
        for (slot, word) in present(words, entries) {
            let old = word.load(Relaxed);
            if level.is_hypervisors(slot) {
                continue;
            }
            if slot != entries && self.hv.hal.interrupt_waits() {
                return Err(Self::pause(record, slot, false));
            }
            let taken = match core::mem::take(&mut half) {
                true => self.resume_pointer(old, level, record, mfn, rights),
                false => self.take_pointer(old, level, record, mfn, rights),
            };
            match taken {
                Ok(new) => {
                    let same = new == old || write_back(word, old, new);
                    debug_assert!(same, "somebody wrote a table that is being checked");
                }
                Err(halt) => match halt.stop {
                    Stop::Preempted => return Err(Self::pause(record, slot, halt.held)),
                    Stop::Failed(errno) => {
                        record.set_progress(Progress {
                            entries: slot,
                            half: halt.held,
                        });
                        return Err(self.give_up(record, mfn, level, errno));
                    }
                },
            }
        }
        if level == Level::L4 {
            self.machine.fill_root(rights.io, mfn, words);
        }
        record.set_progress(Progress {
            entries: ENTRIES,
            half: false,
        });
        record.set_valid();
        Ok(())
    }

    fn pause(record: &FrameRecord, entries: usize, half: bool) -> Halt {
        record.set_progress(Progress { entries, half });
        record.set_partial();
        Halt::preempted(true)
    }

    /// The contents are wrong.
    fn give_up(self, record: &FrameRecord, mfn: Mfn, level: Level, errno: Errno) -> Halt {
        let held = record.give_up() && self.undo(record, mfn, level).is_err();
        Halt {
            stop: Stop::Failed(errno),
            held,
        }
    }

    /// Takes what an entry holds that leads to a table, and gives the entry as the CPU shall see it.
    pub(super) fn take_pointer(
        self,
        new: u64,
        level: Level,
        record: &FrameRecord,
        mfn: Mfn,
        rights: &Rights<'_, H>,
    ) -> Result<u64, Halt> {
        let below = level.below().ok_or(Halt::failed(Errno::EINVAL))?;
        if new & entry::REFUSED_IN_TABLES != 0 {
            return Err(Halt::failed(Errno::EINVAL));
        }
        let child_mfn = entry::frame(new);
        let child = self.hv.memory.record(child_mfn);
        let child = child.ok_or(Halt::failed(Errno::EINVAL))?;
        match self.acquire(child, child_mfn, below, rights) {
            Err(halt) if halt == Halt::failed(Errno::EINVAL) => {
                let place = (record, mfn);
                self.take_linear(new, level, place, (child, child_mfn), rights.owner)?;
            }
            other => other?,
        }
        Ok(entry::pointer(new))
    }

    /// The same for an entry whose table the one at work before left half way.
    fn resume_pointer(
        self,
        new: u64,
        level: Level,
        record: &FrameRecord,
        mfn: Mfn,
        rights: &Rights<'_, H>,
    ) -> Result<u64, Halt> {
        let child_mfn = entry::frame(new);
        let child = self.hv.memory.record(child_mfn);
        let child = child.ok_or(Halt::failed(Errno::EINVAL))?;
        let below = level.below().ok_or(Halt::failed(Errno::EINVAL))?;
        if child.state().frame_type() == below.frame_type() {
            self.resume(child, child_mfn, below, rights)?;
            return Ok(entry::pointer(new));
        }
        // A linear entry that was being dropped. It begins anew.
        match self.drop_table(child, child_mfn) {
            Ok(()) => self.take_pointer(new, level, record, mfn, rights),
            Err(_) => Err(Halt::preempted(true)),
        }
    }
}
