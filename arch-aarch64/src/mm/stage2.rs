//! Stage 2 translation: guest-physical to machine addresses (Arm ARM DDI 0487, D8.2 and D8.3.1.2), 4 KiB granule.
//!
//! The core's view is [`xenolith_hal::P2m`]. Walks over tables are pure but for [`TableMemory`], so that they run on the
//! host over an array. Invariants: a valid entry is never changed into another valid one without an invalid step and a
//! TLB flush between (break before make); a table is freed only after no walk can reach it; once all were given back, nothing is
//! mapped and nothing can be, for whoever still has the domain.

use core::sync::atomic::{AtomicU64, Ordering};

use xenolith_hal::{
    Gfn, Mfn, P2m, P2mEntry, P2mError, P2mType, PAGE_SHIFT, TableFrames,
    sync::{Rank, Reading, SharedLock},
};

/// How tables are read, written and made known to the CPUs.
pub trait TableMemory: Send + Sync {
    /// Entry `index` of the table in `table`.
    fn load(&self, table: Mfn, index: usize) -> u64;
    /// Writes an entry so that walkers see it.
    fn store(&self, table: Mfn, index: usize, value: u64);
    /// Drops every cached translation of `count` guest frames from `gfn`, on all CPUs, for this `vttbr`.
    fn flush(&self, vttbr: u64, gfn: Gfn, count: u64);
}

/// The shape of the tables: how many bits a guest address has and at which level walks begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Bits of a guest-physical address.
    pub bits: u32,
    /// First level.
    pub start_level: u32,
}

impl Geometry {
    /// For `ID_AA64MMFR0_EL1.PARange` of the CPU: 4 levels from 44 bits up, else 3 with concatenated first tables.
    /// Fewer than 40 bits keep one first table.
    #[must_use]
    pub const fn for_pa_range(range: u64) -> Self {
        match range & 0xf {
            0 => Self {
                bits: 32,
                start_level: 1,
            },
            1 => Self {
                bits: 36,
                start_level: 1,
            },
            2 => Self {
                bits: 40,
                start_level: 1,
            },
            3 => Self {
                bits: 42,
                start_level: 1,
            },
            4 => Self {
                bits: 44,
                start_level: 0,
            },
            _ => Self {
                bits: 48,
                start_level: 0,
            },
        }
    }

    const fn shift(level: u32) -> u32 {
        PAGE_SHIFT + 9 * (3 - level)
    }

    /// log2 of the frames of the first table.
    #[must_use]
    pub const fn root_order(self) -> u32 {
        let index_bits = self.bits - Self::shift(self.start_level);
        index_bits.saturating_sub(9)
    }

    /// VTCR_EL2 for this shape, without the physical size field.
    #[must_use]
    pub const fn vtcr(self) -> u64 {
        let sl0 = if self.start_level == 0 { 2 } else { 1 };
        // RES1 bit 31, inner shareable, write-back walks.
        1 << 31 | 3 << 12 | 1 << 10 | 1 << 8 | sl0 << 6 | (64 - self.bits as u64)
    }

    const fn limit(self) -> u64 {
        1 << (self.bits - PAGE_SHIFT)
    }
}

const VALID: u64 = 1;
const TABLE: u64 = 0b11;
const ADDRESS: u64 = 0x0000_ffff_ffff_f000;
const KIND_SHIFT: u32 = 55;

/// The attribute bits of a leaf: memory type, rights, access flag, and our own type number in the software bits.
const fn leaf_bits(kind: P2mType) -> u64 {
    let rights = if kind.writable() { 3 } else { 1 } << 6;
    let memory = match kind {
        P2mType::MmioDirect => 0b0001 << 2,
        _ => 0b1111 << 2,
    };
    let execute_never = match kind {
        P2mType::RamRw | P2mType::RamRo => 0,
        _ => 1 << 54,
    };
    (kind as u64) << KIND_SHIFT | execute_never | 1 << 10 | 3 << 8 | rights | memory
}

fn decode_leaf(entry: u64) -> Option<(u64, P2mType)> {
    let kind = P2mType::from_bits((entry >> KIND_SHIFT & 0xf) as u8)?;
    Some(((entry & ADDRESS) >> PAGE_SHIFT, kind))
}

const fn is_table(entry: u64, level: u32) -> bool {
    level < 3 && entry & TABLE == TABLE
}

const fn order_of(level: u32) -> u32 {
    9 * (3 - level)
}

/// The tables of one domain.
pub struct Stage2<M: TableMemory> {
    memory: M,
    geometry: Geometry,
    root: Mfn,
    /// Guest frames below this can be had: those of the geometry, and none once the tables were given back. Read under the
    /// lock.
    reach: AtomicU64,
    vmid: u16,
    lock: SharedLock,
}

struct Place {
    table: Mfn,
    index: usize,
    level: u32,
    entry: u64,
}

impl<M: TableMemory> Stage2<M> {
    /// Empty tables. `root` names `1 << geometry.root_order()` zeroed frames, aligned to their size.
    pub fn new(memory: M, geometry: Geometry, root: Mfn, vmid: u16) -> Self {
        Self {
            memory,
            geometry,
            root,
            reach: AtomicU64::new(geometry.limit()),
            vmid,
            lock: SharedLock::new(Rank::P2m),
        }
    }

    /// VTTBR_EL2 for this domain.
    #[inline]
    pub fn vttbr(&self) -> u64 {
        u64::from(self.vmid) << 48 | self.root.base().0
    }

    /// Its VMID.
    pub fn vmid(&self) -> u16 {
        self.vmid
    }

    /// Keeps every translation as it is until dropped. Not to be asked for twice at a time.
    #[inline(always)]
    pub fn read_lock(&self) -> Reading<'_> {
        self.lock.read()
    }

    /// Where `gfn` is in the first tables, which lie one after the other.
    fn first_place(&self, gfn: u64) -> Place {
        let level = self.geometry.start_level;
        let index = gfn >> order_of(level);
        self.place(self.root.plus(index / 512), level, gfn)
    }

    /// Where `gfn` is in the table that `at` names.
    fn next_place(&self, at: &Place, gfn: u64) -> Place {
        self.place(Mfn((at.entry & ADDRESS) >> PAGE_SHIFT), at.level + 1, gfn)
    }

    fn place(&self, table: Mfn, level: u32, gfn: u64) -> Place {
        let index = (gfn >> order_of(level)) as usize % 512;
        Place {
            table,
            index,
            level,
            entry: self.memory.load(table, index),
        }
    }

    /// Walks down to the leaf or hole that covers `gfn`.
    fn walk(&self, gfn: u64) -> Place {
        let mut at = self.first_place(gfn);
        while is_table(at.entry, at.level) {
            at = self.next_place(&at, gfn);
        }
        at
    }

    /// Walks to the entry at `target` level, making tables and splitting blocks on the way.
    fn walk_to(&self, gfn: u64, target: u32, tables: &dyn TableFrames) -> Result<Place, P2mError> {
        let mut at = self.first_place(gfn);
        while at.level < target {
            if !is_table(at.entry, at.level) {
                self.make_table(&mut at, gfn, tables)?;
            }
            at = self.next_place(&at, gfn);
        }
        Ok(at)
    }

    /// The entry of one page where a walk to `gfn` ended, with the tables that it takes.
    fn page(&self, at: Place, gfn: u64, tables: &dyn TableFrames) -> Result<Place, P2mError> {
        match at.level {
            3 => Ok(at),
            _ => self.walk_to(gfn, 3, tables),
        }
    }

    /// Puts a table where a hole or a block is; a block's translations go into it unchanged.
    fn make_table(
        &self,
        at: &mut Place,
        gfn: u64,
        tables: &dyn TableFrames,
    ) -> Result<(), P2mError> {
        let table = tables.allocate()?;
        if at.entry & VALID != 0 {
            let next = at.level + 1;
            let step = 1u64 << Geometry::shift(next);
            let kind = if next == 3 { TABLE } else { VALID };
            let leaf = at.entry & !TABLE | kind;
            for i in 0..512u64 {
                self.memory.store(table, i as usize, leaf + i * step);
            }
            let order = order_of(at.level);
            self.memory.store(at.table, at.index, 0);
            self.memory
                .flush(self.vttbr(), Gfn(gfn >> order << order), 1 << order);
        }
        at.entry = table.base().0 | TABLE;
        self.memory.store(at.table, at.index, at.entry);
        Ok(())
    }

    /// Writes a leaf (or a hole) over what is there.
    fn set(&self, at: &Place, gfn: u64, new: u64) {
        if at.entry & VALID != 0 {
            if at.entry == new {
                return;
            }
            self.memory.store(at.table, at.index, 0);
            let order = order_of(at.level);
            self.memory
                .flush(self.vttbr(), Gfn(gfn >> order << order), 1 << order);
        }
        if new != 0 {
            self.memory.store(at.table, at.index, new);
        }
    }

    fn reach(&self) -> u64 {
        self.reach.load(Ordering::Relaxed)
    }

    /// The end of a range that can be had. The tables are locked.
    fn check(&self, gfn: Gfn, count: u64) -> Result<u64, P2mError> {
        let end = gfn.0.checked_add(count).ok_or(P2mError::OutOfRange)?;
        if end > self.reach() {
            return Err(P2mError::OutOfRange);
        }
        Ok(end)
    }

    fn entry_of(at: &Place, gfn: u64) -> Option<P2mEntry> {
        if at.entry & VALID == 0 {
            return None;
        }
        let (first, kind) = decode_leaf(at.entry)?;
        let order = order_of(at.level);
        Some(P2mEntry {
            mfn: Mfn(first + (gfn & ((1 << order) - 1))),
            kind,
            order,
        })
    }

    fn free_below(&self, table: Mfn, level: u32, tables: &dyn TableFrames) {
        for index in 0..512 {
            let entry = self.memory.load(table, index);
            if is_table(entry, level) {
                self.free_below(Mfn((entry & ADDRESS) >> PAGE_SHIFT), level + 1, tables);
            }
        }
        tables.free(table);
    }
}

fn leaf(mfn: u64, kind: P2mType, level: u32) -> u64 {
    mfn << PAGE_SHIFT | leaf_bits(kind) | if level == 3 { TABLE } else { VALID }
}

impl<M: TableMemory> P2m for Stage2<M> {
    fn limit(&self) -> Gfn {
        Gfn(self.geometry.limit())
    }

    fn map(
        &self,
        gfn: Gfn,
        mfn: Mfn,
        count: u64,
        kind: P2mType,
        tables: &dyn TableFrames,
    ) -> Result<(), P2mError> {
        let _held = self.lock.write();
        let end = self.check(gfn, count)?;
        let (mut g, mut m) = (gfn.0, mfn.0);
        while g < end {
            let fits = |order: u32| (g | m) & ((1 << order) - 1) == 0 && end - g >= 1 << order;
            let mut level = if fits(18) {
                1
            } else if fits(9) {
                2
            } else {
                3
            };
            let mut at = self.walk_to(g, level, tables)?;
            while is_table(at.entry, at.level) {
                // A table is there already: fill it rather than throw it away.
                level += 1;
                at = self.walk_to(g, level, tables)?;
            }
            self.set(&at, g, leaf(m, kind, level));
            g += 1 << order_of(level);
            m += 1 << order_of(level);
        }
        Ok(())
    }

    fn unmap(&self, gfn: Gfn, count: u64, tables: &dyn TableFrames) -> Result<(), P2mError> {
        let _held = self.lock.write();
        let end = self.check(gfn, count)?;
        let mut g = gfn.0;
        while g < end {
            let at = self.walk(g);
            let size = 1u64 << order_of(at.level);
            let whole = g & (size - 1) == 0 && end - g >= size;
            if at.entry & VALID == 0 {
                g = (g | (size - 1)) + 1;
            } else if whole {
                self.set(&at, g, 0);
                g += size;
            } else {
                self.walk_to(g, at.level + 1, tables)?;
            }
        }
        Ok(())
    }

    fn exchange(
        &self,
        gfn: Gfn,
        new: Option<(Mfn, P2mType)>,
        tables: &dyn TableFrames,
    ) -> Result<Option<P2mEntry>, P2mError> {
        let _held = self.lock.write();
        self.check(gfn, 1)?;
        let at = self.walk(gfn.0);
        let old = Self::entry_of(&at, gfn.0);
        if old.is_none() && new.is_none() {
            return Ok(None);
        }
        let at = self.page(at, gfn.0, tables)?;
        self.set(
            &at,
            gfn.0,
            new.map_or(0, |(mfn, kind)| leaf(mfn.0, kind, 3)),
        );
        Ok(old)
    }

    fn remove_if(
        &self,
        gfn: Gfn,
        expected: (Mfn, P2mType),
        tables: &dyn TableFrames,
    ) -> Result<bool, P2mError> {
        let _held = self.lock.write();
        self.check(gfn, 1)?;
        let at = self.walk(gfn.0);
        match Self::entry_of(&at, gfn.0) {
            Some(entry) if (entry.mfn, entry.kind) == expected => {}
            _ => return Ok(false),
        }
        let at = self.page(at, gfn.0, tables)?;
        self.set(&at, gfn.0, 0);
        Ok(true)
    }

    fn with_entry<R>(&self, gfn: Gfn, f: impl FnOnce(Option<P2mEntry>) -> R) -> R {
        let _held = self.lock.read();
        if self.check(gfn, 1).is_err() {
            return f(None);
        }
        f(Self::entry_of(&self.walk(gfn.0), gfn.0))
    }

    fn next_mapped(&self, from: Gfn) -> Option<(Gfn, P2mEntry, u64)> {
        let _held = self.lock.read();
        let mut g = from.0;
        while g < self.reach() {
            let at = self.walk(g);
            let size = 1u64 << order_of(at.level);
            if let Some(entry) = Self::entry_of(&at, g) {
                return Some((Gfn(g), entry, size - (g & (size - 1))));
            }
            g = (g | (size - 1)) + 1;
        }
        None
    }

    fn release(&self, tables: &dyn TableFrames) {
        let _held = self.lock.write();
        if self.reach.swap(0, Ordering::Relaxed) == 0 {
            return;
        }
        let (level, frames) = (self.geometry.start_level, 1 << self.geometry.root_order());
        for gfn in (0..frames * 512).map(|index: u64| index << order_of(level)) {
            let at = self.first_place(gfn);
            self.set(&at, gfn, 0);
            if is_table(at.entry, level) {
                let next = Mfn((at.entry & ADDRESS) >> PAGE_SHIFT);
                self.free_below(next, level + 1, tables);
            }
        }
        for frame in 0..frames {
            tables.free(self.root.plus(frame));
        }
    }
}

#[cfg(test)]
mod tests;
