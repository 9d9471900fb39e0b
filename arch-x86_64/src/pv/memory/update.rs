//! Changing one entry of a table that is in use.
//!
//! The caller holds the table. What the new entry leads to is taken, the entry swapped if it is still the one that was looked
//! at, and what the old one held dropped. When another CPU (or the CPU's own walk, which sets bits) was faster, all begins
//! anew. A change of bits that say nothing about frames or rights takes a short way, and so does one that only takes the
//! right to write away.

use core::sync::atomic::{
    AtomicU64,
    Ordering::{AcqRel, Relaxed},
};

use xenolith_core::{Errno, memory::FrameRecord};
use xenolith_hal::{Hal, Mfn};

use super::{AddressSpace, Level, Machine, PageTables, Rights, Stop, entry};

/// What happens to the bits that the CPU sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CpuBits {
    /// They become what the request says.
    Replaced,
    /// Those that are set stay set.
    Kept,
}

impl CpuBits {
    #[inline(always)]
    fn keep(self, old: u64) -> u64 {
        match self {
            Self::Replaced => 0,
            Self::Kept => old & entry::BY_CPU,
        }
    }
}

impl<H: Hal, M: Machine<H>> PageTables<'_, H, M> {
    /// Changes an entry of an L1 table.
    #[inline(always)]
    pub(super) fn update_leaf(
        self,
        word: &AtomicU64,
        new: u64,
        bits: CpuBits,
        rights: &Rights<'_, H>,
    ) -> Result<(), Errno> {
        match self.swap_leaf(word, word.load(Relaxed), new, bits, rights)? {
            true => Ok(()),
            false => self.update_leaf_again(word, new, bits, rights),
        }
    }

    /// The same, out of line.
    #[inline(never)]
    pub(super) fn update_leaf_of_many(
        self,
        word: &AtomicU64,
        new: u64,
        bits: CpuBits,
        rights: &Rights<'_, H>,
    ) -> Result<(), Errno> {
        self.update_leaf(word, new, bits, rights)
    }

    /// The same once more: the entry is another one by now.
    #[cold]
    #[inline(never)]
    fn update_leaf_again(
        self,
        word: &AtomicU64,
        new: u64,
        bits: CpuBits,
        rights: &Rights<'_, H>,
    ) -> Result<(), Errno> {
        while !self.swap_leaf(word, word.load(Relaxed), new, bits, rights)? {}
        Ok(())
    }

    /// Puts `new` in the place of `old`; false when something else is there.
    #[inline(always)]
    pub(super) fn swap_leaf(
        self,
        word: &AtomicU64,
        old: u64,
        new: u64,
        bits: CpuBits,
        rights: &Rights<'_, H>,
    ) -> Result<bool, Errno> {
        let kept = bits.keep(old);
        let put = |new: u64| {
            word.compare_exchange(old, new | kept, AcqRel, Relaxed)
                .is_ok()
        };
        if new & old & entry::PRESENT != 0 {
            let changed = (old ^ new) & !entry::SOFT;
            let mark = old & entry::UNTYPED;
            if changed == 0 {
                return Ok(put(entry::leaf(new) | mark));
            }
            if changed == entry::WRITABLE && old & entry::WRITABLE != 0 {
                let done = put(entry::leaf(new) | mark);
                if done {
                    self.drop_writing(old);
                }
                return Ok(done);
            }
        }
        let taken = self.take_leaf(new, rights)?;
        if put(taken) {
            self.drop_leaf(old);
            return Ok(true);
        }
        self.drop_leaf(taken);
        Ok(false)
    }

    /// Changes an entry of a table above L1.
    #[allow(
        clippy::too_many_arguments,
        reason = "an entry, its place, and what may be put there"
    )]
    pub(super) fn update_pointer(
        self,
        level: Level,
        (record, mfn): (&FrameRecord, Mfn),
        word: &AtomicU64,
        slot: usize,
        new: u64,
        bits: CpuBits,
        rights: &Rights<'_, H>,
        space: &AddressSpace,
    ) -> Result<(), Stop> {
        if level.is_hypervisors(slot) {
            return Err(Errno::EINVAL.into());
        }
        loop {
            let old = word.load(Relaxed);
            let kept = bits.keep(old);
            let put = |new: u64| {
                word.compare_exchange(old, new | kept, AcqRel, Relaxed)
                    .is_ok()
            };
            if new & entry::PRESENT != 0 && new & entry::REFUSED_IN_TABLES != 0 {
                return Err(Errno::EINVAL.into());
            }
            if new & old & entry::PRESENT != 0 && (old ^ new) & !entry::SOFT == 0 {
                if put(entry::pointer(new)) {
                    self.root_changed(level, mfn, slot);
                    return Ok(());
                }
                continue;
            }
            let taken = match new & entry::PRESENT {
                0 => new,
                _ => self.hold_pointer(new, level, (record, mfn), rights, space)?,
            };
            if put(taken) {
                // Before what the old entry led to is anything else.
                self.root_changed(level, mfn, slot);
                self.let_pointer_go(old, level, record, mfn, space);
                return Ok(());
            }
            self.let_pointer_go(taken, level, record, mfn, space);
            self.finish_leaving(space)?;
        }
    }

    fn root_changed(self, level: Level, table: Mfn, slot: usize) {
        if level == Level::L4 {
            self.machine.root_changed(table, slot);
        }
    }
}
