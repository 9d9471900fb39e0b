//! Second-level tables: guest-physical to machine addresses, with the entries' meaning left to a [`Format`].
//!
//! The core's view is [`xenolith_hal::P2m`]. Invariants: what one call changes is made unusable on every CPU by one flush
//! before the call returns; a valid entry becomes another valid one in one store, unless the format wants it broken first;
//! a table frame is freed only after it was taken out of the tree and the flush is over; once all were given back, nothing is
//! mapped and nothing can be, for whoever still has the domain. Hardware never writes entries:
//! formats set their accessed and dirty bits from the start. Serves AMD's nested paging (APM volume 2, 15.25), Intel's EPT
//! (SDM volume 3, 29.3), and any other with 4 KiB tables of 512 entries.

use core::{
    marker::PhantomData,
    ops::Range,
    sync::atomic::{AtomicU64, Ordering},
};

use xenolith_hal::{
    Gfn, Mfn, Order, P2m, P2mEntry, P2mError, P2mType, PAGE_SHIFT, TableFrames,
    sync::{Rank, Reading, SharedLock},
};

/// log2 of the entries of a table.
const INDEX_BITS: u32 = 9;
const ENTRIES: u64 = 1 << INDEX_BITS;

/// What an entry says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// Nothing.
    Empty,
    /// The next table.
    Table(Mfn),
    /// A translation: the first machine frame of the block and what it is.
    Leaf(Mfn, P2mType),
}

/// How entries are written. An entry of order `n` covers `1 << n` frames: 0, 9, 18 and so on.
pub trait Format: Send + Sync + 'static {
    /// Whether a valid entry that changes must be invalid, with a flush, in between.
    const BREAK_BEFORE_MAKE: bool;
    /// Machine frames that an entry can name are below this.
    const MFN_LIMIT: u64;

    /// The entry that points to a table.
    fn table(table: Mfn) -> u64;
    /// The entry that maps a block of the order.
    fn leaf(mfn: Mfn, kind: P2mType, order: Order) -> u64;
    /// What an entry found where entries have the order says. 0 is [`Slot::Empty`]; of order 0 none is a table.
    fn decode(entry: u64, order: Order) -> Slot;
}

/// How tables are read, written and made known to the CPUs; one value for each domain.
pub trait TableMemory: Send + Sync {
    /// Entry `index` of the table.
    fn load(&self, table: Mfn, index: usize) -> u64;
    /// Writes an entry so that table walks see it.
    fn store(&self, table: Mfn, index: usize, value: u64);
    /// On return no CPU uses an old translation of these guest frames, nor a table that was taken out of the tree. Called
    /// with the tables locked for writing: it may wait for CPUs to leave guest mode, never for one in the hypervisor.
    fn flush(&self, root: Mfn, changed: Range<Gfn>);
}

/// The shape of the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Bits of a guest-physical address.
    pub bits: u32,
    /// Tables on the way to a page. A root of more than 512 entries is several frames in one piece.
    pub levels: u32,
    /// Order of the largest block.
    pub largest: Order,
}

impl Shape {
    /// The order of an entry of the root.
    #[inline]
    const fn top(self) -> Order {
        INDEX_BITS * (self.levels - 1)
    }

    /// log2 of the frames of the root.
    #[must_use]
    pub const fn root_order(self) -> Order {
        (self.bits - PAGE_SHIFT).saturating_sub(self.top() + INDEX_BITS)
    }

    /// Guest frames are below this.
    #[must_use]
    #[inline]
    pub const fn limit(self) -> u64 {
        1 << (self.bits - PAGE_SHIFT)
    }

    /// The largest block for what is left of a range.
    fn fitting(self, gfn: u64, mfn: u64, left: u64) -> Order {
        let mut order = self.largest;
        while order > 0 && ((gfn | mfn) & ((1 << order) - 1) != 0 || left < 1 << order) {
            order -= INDEX_BITS;
        }
        order
    }
}

/// A set of guest frames, told apart well enough: frames that were never added are rarely taken to be in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Footprint(u64);

impl Footprint {
    const ALL: Self = Self(u64::MAX);

    /// The set with one frame more.
    #[inline]
    #[must_use]
    pub const fn with(self, gfn: Gfn) -> Self {
        let number = gfn.0 ^ gfn.0 >> 6 ^ gfn.0 >> 12 ^ gfn.0 >> 18;
        Self(self.0 | 1 << (number % 64))
    }
}

/// How many generations back it is known what each took away.
const REMEMBERED: usize = 16;

/// log2 frames that a table with entries of order 9 is for.
const REGION: Order = 2 * INDEX_BITS;
/// How many such tables are remembered, so that most walks begin there.
const SHORTCUTS: usize = 4;

/// Where the table of one region is, in one word: one more than the region's number above, the table's frame below. All
/// zeroes is none.
struct Shortcut;

impl Shortcut {
    const FRAME_BITS: u32 = 40;
    const FRAME: u64 = (1 << Self::FRAME_BITS) - 1;

    /// `None` for what does not fit.
    const fn word(region: u64, table: Mfn) -> Option<u64> {
        let fits = region < u64::MAX >> Self::FRAME_BITS && table.0 <= Self::FRAME;
        if fits {
            Some((region + 1) << Self::FRAME_BITS | table.0)
        } else {
            None
        }
    }

    #[inline(always)]
    const fn table(word: u64, region: u64) -> Option<Mfn> {
        if word >> Self::FRAME_BITS == region + 1 {
            Some(Mfn(word & Self::FRAME))
        } else {
            None
        }
    }
}

/// What one call changed so far.
#[derive(Default)]
struct Changes {
    frames: Option<(u64, u64)>,
    lost: Footprint,
}

impl Changes {
    fn note(&mut self, gfn: u64, order: Order) {
        let first = gfn >> order << order;
        let end = first + (1 << order);
        self.frames = Some(match self.frames {
            Some((from, to)) => (from.min(first), to.max(end)),
            None => (first, end),
        });
    }
}

/// Where a walk ended.
struct Place {
    table: Mfn,
    index: usize,
    order: Order,
    slot: Slot,
}

/// The tables of one domain.
pub struct SecondLevel<F, M> {
    memory: M,
    shape: Shape,
    root: Mfn,
    /// Guest frames below this can be had: the shape's, and none once the tables were given back. Read under the lock.
    reach: AtomicU64,
    generation: AtomicU64,
    /// What each of the last generations took away.
    lost: [AtomicU64; REMEMBERED],
    /// Set by walks, under the lock however it is held; cleared before a table is freed, under the lock for writing.
    shortcuts: [AtomicU64; SHORTCUTS],
    lock: SharedLock,
    format: PhantomData<fn() -> F>,
}

/// The tables, held as they are until this is dropped.
pub struct Reader<'a, F, M> {
    tables: &'a SecondLevel<F, M>,
    _held: Reading<'a>,
}

impl<F: Format, M: TableMemory> Reader<'_, F, M> {
    /// What stands behind a guest frame.
    #[inline]
    #[must_use]
    pub fn entry(&self, gfn: Gfn) -> Option<P2mEntry> {
        self.tables.entry(gfn)
    }

    /// See [`SecondLevel::generation`].
    #[inline]
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.tables.generation()
    }

    /// Whether, since an earlier generation, no translation to the domain's own memory at these frames went away. It may
    /// say no where none did, never the other way.
    #[must_use]
    pub fn still_holds(&self, since: u64, frames: Footprint) -> bool {
        let now = self.generation();
        if now.wrapping_sub(since) > REMEMBERED as u64 {
            return false;
        }
        (since..now).all(|before| {
            let lost = self.tables.lost_at(before + 1).load(Ordering::Relaxed);
            lost & frames.0 == 0
        })
    }
}

impl<F: Format, M: TableMemory> SecondLevel<F, M> {
    /// Empty tables. `root` names `1 << shape.root_order()` zeroed frames, aligned to their size.
    pub fn new(memory: M, shape: Shape, root: Mfn) -> Self {
        Self {
            memory,
            shape,
            root,
            reach: AtomicU64::new(shape.limit()),
            generation: AtomicU64::new(1),
            lost: [const { AtomicU64::new(0) }; REMEMBERED],
            shortcuts: [const { AtomicU64::new(0) }; SHORTCUTS],
            lock: SharedLock::new(Rank::P2m),
            format: PhantomData,
        }
    }

    /// First frame of the root table.
    #[inline]
    pub const fn root(&self) -> Mfn {
        self.root
    }

    /// Where the tables live and how they are flushed.
    #[inline]
    pub const fn memory(&self) -> &M {
        &self.memory
    }

    /// Keeps every translation as it is until the reader is dropped.
    #[inline]
    pub fn read(&self) -> Reader<'_, F, M> {
        Reader {
            tables: self,
            _held: self.lock.read(),
        }
    }

    /// A number, never 0, that changes whenever a translation to the domain's own memory ([`P2mType::RamRw`],
    /// [`P2mType::RamRo`]) goes away, leads elsewhere or loses a right. One that was found at the same generation still
    /// holds, for as long as a [`Reader`] is held. Translations of other kinds come and go without a new generation, so
    /// that a domain which maps grants does not lose what is cached of its own memory.
    #[inline]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    fn lost_at(&self, generation: u64) -> &AtomicU64 {
        let [first, ..] = &self.lost;
        let index = generation % REMEMBERED as u64;
        self.lost.get(index as usize).unwrap_or(first)
    }

    /// Begins a generation without the translations of these frames. The tables are locked for writing.
    fn next_generation(&self, lost: Footprint) {
        let next = self.generation().wrapping_add(1).max(1);
        self.lost_at(next).store(lost.0, Ordering::Relaxed);
        self.generation.store(next, Ordering::Release);
    }

    #[inline]
    fn place(&self, table: Mfn, order: Order, gfn: u64) -> Place {
        let index = gfn >> order;
        let table = if order == self.shape.top() {
            table.plus(index / ENTRIES)
        } else {
            table
        };
        let index = (index % ENTRIES) as usize;
        Place {
            table,
            index,
            order,
            slot: F::decode(self.memory.load(table, index), order),
        }
    }

    #[inline(always)]
    fn shortcut(&self, region: u64) -> &AtomicU64 {
        let [first, ..] = &self.shortcuts;
        let index = region as usize % SHORTCUTS;
        self.shortcuts.get(index).unwrap_or(first)
    }

    fn forget_shortcuts(&self) {
        for word in &self.shortcuts {
            word.store(0, Ordering::Relaxed);
        }
    }

    /// Walks down to the leaf or hole that covers `gfn`, a number below the limit.
    #[inline(always)]
    fn walk(&self, gfn: u64) -> Place {
        let region = gfn >> REGION;
        let word = self.shortcut(region).load(Ordering::Relaxed);
        match Shortcut::table(word, region) {
            Some(table) => self.walk_region(table, gfn),
            None => self.walk_all(gfn),
        }
    }

    /// The walk from the table of the region on.
    #[inline(always)]
    fn walk_region(&self, table: Mfn, gfn: u64) -> Place {
        let at = self.place_in(table, INDEX_BITS, gfn);
        match at.slot {
            Slot::Table(last) => self.place_in(last, 0, gfn),
            _ => at,
        }
    }

    #[inline(always)]
    fn place_in(&self, table: Mfn, order: Order, gfn: u64) -> Place {
        let index = (gfn >> order) as usize % ENTRIES as usize;
        Place {
            table,
            index,
            order,
            slot: F::decode(self.memory.load(table, index), order),
        }
    }

    #[inline(never)]
    fn walk_all(&self, gfn: u64) -> Place {
        let mut at = self.place(self.root, self.shape.top(), gfn);
        while at.order > 0
            && let Slot::Table(next) = at.slot
        {
            if at.order == REGION
                && let Some(word) = Shortcut::word(gfn >> REGION, next)
            {
                self.shortcut(gfn >> REGION).store(word, Ordering::Relaxed);
            }
            at = self.place_in(next, at.order - INDEX_BITS, gfn);
        }
        at
    }

    /// Walks to the entry of the order, making tables and splitting blocks on the way.
    fn walk_to(
        &self,
        gfn: u64,
        order: Order,
        tables: &dyn TableFrames,
        changes: &mut Changes,
    ) -> Result<Place, P2mError> {
        let mut at = self.place(self.root, self.shape.top(), gfn);
        while at.order > order {
            let next = match at.slot {
                Slot::Table(next) => next,
                _ => self.make_table(&at, gfn, tables, changes)?,
            };
            at = self.place(next, at.order - INDEX_BITS, gfn);
        }
        Ok(at)
    }

    /// Puts a table where a hole or a block is; a block's translations go into it unchanged.
    fn make_table(
        &self,
        at: &Place,
        gfn: u64,
        tables: &dyn TableFrames,
        changes: &mut Changes,
    ) -> Result<Mfn, P2mError> {
        let table = tables.allocate()?;
        if let Slot::Leaf(first, kind) = at.slot {
            let order = at.order - INDEX_BITS;
            for i in 0..ENTRIES {
                let part = F::leaf(first.plus(i << order), kind, order);
                self.memory.store(table, i as usize, part);
            }
            // The same frames by smaller pages, but CPUs may not hold both sizes for long.
            self.make_changeable(at, gfn, changes);
        }
        self.memory.store(at.table, at.index, F::table(table));
        Ok(table)
    }

    /// Prepares a valid entry for becoming another valid one.
    fn make_changeable(&self, at: &Place, gfn: u64, changes: &mut Changes) {
        if F::BREAK_BEFORE_MAKE {
            self.memory.store(at.table, at.index, 0);
            self.flush_block(gfn, at.order);
        } else {
            changes.note(gfn, at.order);
        }
    }

    fn flush_block(&self, gfn: u64, order: Order) {
        let first = Gfn(gfn >> order << order);
        self.memory.flush(self.root, first..first.plus(1 << order));
    }

    /// Writes a leaf or a hole over a leaf or a hole.
    fn set(&self, at: &Place, gfn: u64, new: Slot, changes: &mut Changes) {
        if at.slot == new {
            return;
        }
        if let Slot::Leaf(first, kind) = at.slot {
            let keeps = matches!(new, Slot::Leaf(mfn, now)
                if mfn == first && kind == P2mType::RamRo && now == P2mType::RamRw);
            if is_memory(kind) && !keeps {
                changes.lost = match at.order {
                    0 => changes.lost.with(Gfn(gfn)),
                    _ => Footprint::ALL,
                };
            }
            if new == Slot::Empty {
                changes.note(gfn, at.order);
            } else {
                self.make_changeable(at, gfn, changes);
            }
        }
        let entry = match new {
            Slot::Leaf(mfn, kind) => F::leaf(mfn, kind, at.order),
            _ => 0,
        };
        self.memory.store(at.table, at.index, entry);
    }

    /// Writes a block over a table, which is freed once no CPU walks it.
    fn replace_table(
        &self,
        at: &Place,
        table: Mfn,
        gfn: u64,
        entry: u64,
        tables: &dyn TableFrames,
    ) {
        self.next_generation(Footprint::ALL);
        self.forget_shortcuts();
        if F::BREAK_BEFORE_MAKE {
            self.memory.store(at.table, at.index, 0);
            self.flush_block(gfn, at.order);
            self.memory.store(at.table, at.index, entry);
        } else {
            self.memory.store(at.table, at.index, entry);
            self.flush_block(gfn, at.order);
        }
        self.free_below(table, at.order - INDEX_BITS, tables);
    }

    fn free_below(&self, table: Mfn, order: Order, tables: &dyn TableFrames) {
        if order > 0 {
            for index in 0..ENTRIES as usize {
                if let Slot::Table(next) = F::decode(self.memory.load(table, index), order) {
                    self.free_below(next, order - INDEX_BITS, tables);
                }
            }
        }
        tables.free(table);
    }

    /// Runs a change under the lock and makes it known, whether it went well or stopped half-way.
    fn change<R>(&self, f: impl FnOnce(&mut Changes) -> R) -> R {
        let _held = self.lock.write();
        let mut changes = Changes::default();
        let result = f(&mut changes);
        if changes.lost != Footprint::default() {
            self.next_generation(changes.lost);
        }
        if let Some((first, end)) = changes.frames {
            self.memory.flush(self.root, Gfn(first)..Gfn(end));
        }
        result
    }

    fn reach(&self) -> u64 {
        self.reach.load(Ordering::Relaxed)
    }

    /// The end of a range that can be had. The tables are locked.
    fn check(&self, gfn: Gfn, count: u64) -> Result<u64, P2mError> {
        match gfn.0.checked_add(count) {
            Some(end) if end <= self.reach() => Ok(end),
            _ => Err(P2mError::OutOfRange),
        }
    }

    fn check_target(mfn: Mfn, count: u64) -> Result<(), P2mError> {
        match mfn.0.checked_add(count) {
            Some(end) if end <= F::MFN_LIMIT => Ok(()),
            _ => Err(P2mError::OutOfRange),
        }
    }

    #[inline(always)]
    fn entry(&self, gfn: Gfn) -> Option<P2mEntry> {
        let region = gfn.0 >> REGION;
        let word = self.shortcut(region).load(Ordering::Relaxed);
        if let Some(table) = Shortcut::table(word, region) {
            let at = self.place_in(table, INDEX_BITS, gfn.0);
            if let Slot::Table(last) = at.slot {
                return page_of(&self.place_in(last, 0, gfn.0));
            }
            return entry_of(&at, gfn.0);
        }
        self.far_entry(gfn)
    }

    #[inline(never)]
    fn far_entry(&self, gfn: Gfn) -> Option<P2mEntry> {
        if gfn.0 >= self.reach() {
            return None;
        }
        entry_of(&self.walk_all(gfn.0), gfn.0)
    }

    /// The entry of one page where a walk to `gfn` ended, with the tables that it takes.
    fn page(
        &self,
        at: Place,
        gfn: u64,
        tables: &dyn TableFrames,
        changes: &mut Changes,
    ) -> Result<Place, P2mError> {
        match at.order {
            0 => Ok(at),
            _ => self.walk_to(gfn, 0, tables, changes),
        }
    }
}

#[inline(always)]
fn entry_of(at: &Place, gfn: u64) -> Option<P2mEntry> {
    let Slot::Leaf(first, kind) = at.slot else {
        return None;
    };
    Some(P2mEntry {
        mfn: first.plus(gfn & ((1 << at.order) - 1)),
        kind,
        order: at.order,
    })
}

/// The same where the walk ended at a single page.
#[inline(always)]
fn page_of(at: &Place) -> Option<P2mEntry> {
    let Slot::Leaf(mfn, kind) = at.slot else {
        return None;
    };
    let order = 0;
    Some(P2mEntry { mfn, kind, order })
}

const fn is_memory(kind: P2mType) -> bool {
    matches!(kind, P2mType::RamRw | P2mType::RamRo)
}

impl<F: Format, M: TableMemory> P2m for SecondLevel<F, M> {
    fn limit(&self) -> Gfn {
        Gfn(self.shape.limit())
    }

    fn map(
        &self,
        gfn: Gfn,
        mfn: Mfn,
        count: u64,
        kind: P2mType,
        tables: &dyn TableFrames,
    ) -> Result<(), P2mError> {
        Self::check_target(mfn, count)?;
        self.change(|changes| {
            let end = self.check(gfn, count)?;
            let (mut g, mut m) = (gfn.0, mfn.0);
            while g < end {
                let order = self.shape.fitting(g, m, end - g);
                let at = self.walk_to(g, order, tables, changes)?;
                if let Slot::Table(below) = at.slot {
                    self.replace_table(&at, below, g, F::leaf(Mfn(m), kind, order), tables);
                } else {
                    self.set(&at, g, Slot::Leaf(Mfn(m), kind), changes);
                }
                g += 1 << order;
                m += 1 << order;
            }
            Ok(())
        })
    }

    fn unmap(&self, gfn: Gfn, count: u64, tables: &dyn TableFrames) -> Result<(), P2mError> {
        self.change(|changes| {
            let end = self.check(gfn, count)?;
            let mut g = gfn.0;
            while g < end {
                let at = self.walk(g);
                let size = 1u64 << at.order;
                let whole = g & (size - 1) == 0 && end - g >= size;
                if at.slot == Slot::Empty {
                    g = (g | (size - 1)) + 1;
                } else if whole {
                    self.set(&at, g, Slot::Empty, changes);
                    g += size;
                } else {
                    self.make_table(&at, g, tables, changes)?;
                }
            }
            Ok(())
        })
    }

    fn exchange(
        &self,
        gfn: Gfn,
        new: Option<(Mfn, P2mType)>,
        tables: &dyn TableFrames,
    ) -> Result<Option<P2mEntry>, P2mError> {
        let slot = match new {
            Some((mfn, kind)) => {
                Self::check_target(mfn, 1)?;
                Slot::Leaf(mfn, kind)
            }
            None => Slot::Empty,
        };
        self.change(|changes| {
            self.check(gfn, 1)?;
            let at = self.walk(gfn.0);
            let old = entry_of(&at, gfn.0);
            if old.is_some() || new.is_some() {
                let at = self.page(at, gfn.0, tables, changes)?;
                self.set(&at, gfn.0, slot, changes);
            }
            Ok(old)
        })
    }

    fn remove_if(
        &self,
        gfn: Gfn,
        expected: (Mfn, P2mType),
        tables: &dyn TableFrames,
    ) -> Result<bool, P2mError> {
        self.change(|changes| {
            self.check(gfn, 1)?;
            let at = self.walk(gfn.0);
            match entry_of(&at, gfn.0) {
                Some(entry) if (entry.mfn, entry.kind) == expected => {}
                _ => return Ok(false),
            }
            let at = self.page(at, gfn.0, tables, changes)?;
            self.set(&at, gfn.0, Slot::Empty, changes);
            Ok(true)
        })
    }

    #[inline(always)]
    fn with_entry<R>(&self, gfn: Gfn, f: impl FnOnce(Option<P2mEntry>) -> R) -> R {
        let held = self.read();
        f(held.entry(gfn))
    }

    fn next_mapped(&self, from: Gfn) -> Option<(Gfn, P2mEntry, u64)> {
        let _held = self.lock.read();
        let mut g = from.0;
        while g < self.reach() {
            let at = self.walk(g);
            let size = 1u64 << at.order;
            if let Some(entry) = entry_of(&at, g) {
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
        self.next_generation(Footprint::ALL);
        self.forget_shortcuts();
        let (top, frames) = (self.shape.top(), 1 << self.shape.root_order());
        for gfn in (0..frames * ENTRIES).map(|index| index << top) {
            let at = self.place(self.root, top, gfn);
            if at.slot == Slot::Empty {
                continue;
            }
            self.memory.store(at.table, at.index, 0);
            self.flush_block(gfn, top);
            if let Slot::Table(next) = at.slot {
                self.free_below(next, top - INDEX_BITS, tables);
            }
        }
        for frame in 0..frames {
            tables.free(self.root.plus(frame));
        }
    }
}

#[cfg(test)]
mod tests;
