//! A second-level translation kept as blocks in a sorted map. It takes and gives table frames as three levels of real
//! tables would (one root, one table per 1 GiB and one per 2 MiB that holds smaller blocks), so that quotas, failures
//! and leaks of table frames show in tests.

use std::{collections::BTreeMap, sync::Arc};

use xenolith_hal::{
    Gfn, Mfn, Order, P2m, P2mEntry, P2mError, P2mType, TableFrames,
    sync::{Mutex, Rank},
};

use crate::Faults;

/// Block sizes, largest first.
const ORDERS: [Order; 3] = [18, 9, 0];
/// What the root table covers.
const ROOT: Order = 27;

#[derive(Clone, Copy)]
struct Block {
    mfn: Mfn,
    kind: P2mType,
    order: Order,
}

impl Block {
    fn entry(&self, inside: u64) -> P2mEntry {
        P2mEntry {
            mfn: self.mfn.plus(inside),
            kind: self.kind,
            order: self.order,
        }
    }

    fn frames(&self) -> u64 {
        1 << self.order
    }
}

#[derive(Default)]
struct Tables {
    blocks: BTreeMap<u64, Block>,
    /// Table frames by the order of what each covers and its place.
    frames: BTreeMap<(Order, u64), Mfn>,
    /// Guest frames below this can be had: none once the table frames were given back.
    reach: u64,
}

/// The simulated second-level translation of one domain.
pub struct SimP2m {
    limit: u64,
    /// It stands for the page tables of a paravirtual guest.
    linear: bool,
    tables: Mutex<Tables>,
    faults: Arc<Faults>,
}

impl SimP2m {
    /// An empty translation for guest frames below `limit`.
    pub fn new(limit: u64, faults: Arc<Faults>) -> Self {
        Self {
            limit,
            linear: false,
            tables: Mutex::new(
                Rank::P2m,
                Tables {
                    reach: limit,
                    ..Tables::default()
                },
            ),
            faults,
        }
    }

    /// An empty address space of a paravirtual guest, with virtual pages below `limit`.
    pub fn linear(limit: u64, faults: Arc<Faults>) -> Self {
        Self {
            linear: true,
            ..Self::new(limit, faults)
        }
    }

    /// Whether it was made with [`SimP2m::linear`].
    pub fn is_linear(&self) -> bool {
        self.linear
    }

    /// How many table frames it holds.
    pub fn table_frames(&self) -> usize {
        self.tables.lock().frames.len()
    }
}

impl Tables {
    fn check(&self, gfn: Gfn, count: u64) -> Result<(), P2mError> {
        match gfn.0.checked_add(count) {
            Some(end) if end <= self.reach => Ok(()),
            _ => Err(P2mError::OutOfRange),
        }
    }

    fn find(&self, gfn: u64) -> Option<(u64, &Block)> {
        let (start, block) = self.blocks.range(..=gfn).next_back()?;
        (gfn - start < block.frames()).then_some((*start, block))
    }

    /// Makes sure that tables exist down to where a block of `order` at `gfn` is written.
    fn grow(
        &mut self,
        gfn: u64,
        order: Order,
        tables: &dyn TableFrames,
        faults: &Faults,
    ) -> Result<(), P2mError> {
        for covers in [ROOT, 18, 9] {
            let place = (covers, gfn >> covers);
            if covers > order && !self.frames.contains_key(&place) {
                if faults.fires() {
                    return Err(P2mError::NoMemory);
                }
                self.frames.insert(place, tables.allocate()?);
            }
        }
        Ok(())
    }

    /// Writes a block over whatever smaller blocks and tables stood there.
    fn put(
        &mut self,
        gfn: u64,
        block: Block,
        tables: &dyn TableFrames,
        faults: &Faults,
    ) -> Result<(), P2mError> {
        self.grow(gfn, block.order, tables, faults)?;
        self.blocks.insert(gfn, block);
        let covered = |(covers, place): &(Order, u64)| {
            *covers <= block.order && place >> (block.order - covers) == gfn >> block.order
        };
        let stale: Vec<_> = self.frames.keys().copied().filter(covered).collect();
        for place in stale {
            if let Some(mfn) = self.frames.remove(&place) {
                tables.free(mfn);
            }
        }
        Ok(())
    }

    /// Splits the block across `gfn` until a block starts there.
    fn split_at(
        &mut self,
        gfn: u64,
        tables: &dyn TableFrames,
        faults: &Faults,
    ) -> Result<(), P2mError> {
        while let Some((start, &block)) = self.find(gfn)
            && start != gfn
        {
            let smaller = block.order - 9;
            self.grow(start, smaller, tables, faults)?;
            for n in 0..512 {
                let inside = n << smaller;
                let part = Block {
                    mfn: block.mfn.plus(inside),
                    order: smaller,
                    ..block
                };
                self.blocks.insert(start + inside, part);
            }
        }
        Ok(())
    }

    fn clear(
        &mut self,
        gfn: u64,
        count: u64,
        tables: &dyn TableFrames,
        faults: &Faults,
    ) -> Result<(), P2mError> {
        self.split_at(gfn, tables, faults)?;
        self.split_at(gfn + count, tables, faults)?;
        let gone: Vec<_> = self
            .blocks
            .range(gfn..gfn + count)
            .map(|(at, _)| *at)
            .collect();
        for at in gone {
            self.blocks.remove(&at);
        }
        Ok(())
    }
}

impl P2m for SimP2m {
    fn limit(&self) -> Gfn {
        Gfn(self.limit)
    }

    fn map(
        &self,
        gfn: Gfn,
        mfn: Mfn,
        count: u64,
        kind: P2mType,
        tables: &dyn TableFrames,
    ) -> Result<(), P2mError> {
        let mut inner = self.tables.lock();
        inner.check(gfn, count)?;
        inner.clear(gfn.0, count, tables, &self.faults)?;
        let mut done = 0;
        while done < count {
            let (to, from) = (gfn.0 + done, mfn.0 + done);
            let fits = |order: &Order| {
                (to | from).is_multiple_of(1 << order) && count - done >= 1 << order
            };
            let order = ORDERS.into_iter().find(fits).unwrap_or(0);
            let block = Block {
                mfn: Mfn(from),
                kind,
                order,
            };
            inner.put(to, block, tables, &self.faults)?;
            done += 1 << order;
        }
        Ok(())
    }

    fn unmap(&self, gfn: Gfn, count: u64, tables: &dyn TableFrames) -> Result<(), P2mError> {
        let mut inner = self.tables.lock();
        inner.check(gfn, count)?;
        inner.clear(gfn.0, count, tables, &self.faults)
    }

    fn exchange(
        &self,
        gfn: Gfn,
        new: Option<(Mfn, P2mType)>,
        tables: &dyn TableFrames,
    ) -> Result<Option<P2mEntry>, P2mError> {
        let mut inner = self.tables.lock();
        inner.check(gfn, 1)?;
        let old = inner
            .find(gfn.0)
            .map(|(start, block)| block.entry(gfn.0 - start));
        inner.clear(gfn.0, 1, tables, &self.faults)?;
        if let Some((mfn, kind)) = new {
            let block = Block {
                mfn,
                kind,
                order: 0,
            };
            if let Err(error) = inner.put(gfn.0, block, tables, &self.faults) {
                if let Some(old) = old {
                    // `clear` split down to this frame, so its table exists and this cannot fail.
                    let block = Block {
                        mfn: old.mfn,
                        kind: old.kind,
                        order: 0,
                    };
                    inner.blocks.insert(gfn.0, block);
                }
                return Err(error);
            }
        }
        Ok(old)
    }

    fn remove_if(
        &self,
        gfn: Gfn,
        expected: (Mfn, P2mType),
        tables: &dyn TableFrames,
    ) -> Result<bool, P2mError> {
        let mut inner = self.tables.lock();
        inner.check(gfn, 1)?;
        let is_expected = inner.find(gfn.0).is_some_and(|(start, block)| {
            let entry = block.entry(gfn.0 - start);
            (entry.mfn, entry.kind) == expected
        });
        if is_expected {
            inner.clear(gfn.0, 1, tables, &self.faults)?;
        }
        Ok(is_expected)
    }

    fn with_entry<R>(&self, gfn: Gfn, f: impl FnOnce(Option<P2mEntry>) -> R) -> R {
        let inner = self.tables.lock();
        f(inner
            .find(gfn.0)
            .map(|(start, block)| block.entry(gfn.0 - start)))
    }

    fn next_mapped(&self, from: Gfn) -> Option<(Gfn, P2mEntry, u64)> {
        let inner = self.tables.lock();
        if let Some((start, block)) = inner.find(from.0) {
            let inside = from.0 - start;
            return Some((from, block.entry(inside), block.frames() - inside));
        }
        let (start, block) = inner.blocks.range(from.0..).next()?;
        Some((Gfn(*start), block.entry(0), block.frames()))
    }

    fn release(&self, tables: &dyn TableFrames) {
        let mut inner = self.tables.lock();
        inner.reach = 0;
        inner.blocks.clear();
        for (_, mfn) in std::mem::take(&mut inner.frames) {
            tables.free(mfn);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
    use xenolith_hal::NoMemory;

    #[derive(Default)]
    struct Counter(AtomicU64);
    impl TableFrames for Counter {
        fn allocate(&self) -> Result<Mfn, NoMemory> {
            Ok(Mfn(0x1000 + self.0.fetch_add(1, SeqCst)))
        }
        fn free(&self, _: Mfn) {
            self.0.fetch_sub(1, SeqCst);
        }
    }

    fn new() -> (SimP2m, Counter) {
        (SimP2m::new(1 << 28, Arc::default()), Counter::default())
    }

    #[test]
    fn the_largest_blocks_that_fit_are_used() {
        let (p2m, tables) = new();
        p2m.map(Gfn(0x1ff), Mfn(0x3ff), 0x202, P2mType::RamRw, &tables)
            .unwrap();
        let order = |gfn| p2m.lookup(Gfn(gfn)).map(|entry| entry.order);
        assert_eq!(order(0x1fe), None);
        assert_eq!(order(0x1ff), Some(0));
        assert_eq!(order(0x200), Some(9));
        assert_eq!(order(0x3ff), Some(9));
        assert_eq!(order(0x400), Some(0));
        assert_eq!(order(0x401), None);
        assert_eq!(p2m.lookup(Gfn(0x234)).map(|e| e.mfn), Some(Mfn(0x434)));
        p2m.release(&tables);
        assert_eq!(tables.0.load(SeqCst), 0);
        let again = p2m.map(Gfn(0), Mfn(0), 1, P2mType::RamRw, &tables);
        assert_eq!(again, Err(P2mError::OutOfRange));
    }

    #[test]
    fn unmapping_inside_a_block_splits_it() {
        let (p2m, tables) = new();
        p2m.map(Gfn(0), Mfn(0), 1 << 18, P2mType::RamRw, &tables)
            .unwrap();
        assert_eq!(p2m.table_frames(), 1);
        p2m.unmap(Gfn(0x201), 1, &tables).unwrap();
        assert_eq!(p2m.lookup(Gfn(0x201)), None);
        assert_eq!(
            p2m.lookup(Gfn(0x202)).map(|e| (e.mfn, e.order)),
            Some((Mfn(0x202), 0))
        );
        assert_eq!(p2m.lookup(Gfn(0x400)).map(|e| e.order), Some(9));
        assert_eq!(p2m.next_mapped(Gfn(0x201)).map(|n| n.0), Some(Gfn(0x202)));
        assert_eq!(p2m.table_frames(), 3);
        p2m.map(Gfn(0), Mfn(0), 1 << 18, P2mType::RamRw, &tables)
            .unwrap();
        assert_eq!(p2m.table_frames(), 1);
    }

    #[test]
    fn exchange_and_remove_if_act_on_what_is_there() {
        let (p2m, tables) = new();
        let new = (Mfn(9), P2mType::GrantRo);
        assert_eq!(p2m.exchange(Gfn(5), Some(new), &tables), Ok(None));
        assert_eq!(
            p2m.remove_if(Gfn(5), (Mfn(9), P2mType::GrantRw), &tables),
            Ok(false)
        );
        assert_eq!(p2m.remove_if(Gfn(5), new, &tables), Ok(true));
        assert_eq!(p2m.remove_if(Gfn(5), new, &tables), Ok(false));
    }

    #[test]
    fn an_injected_failure_leaves_the_old_translation() {
        let (p2m, tables) = new();
        p2m.map(Gfn(0), Mfn(0), 512, P2mType::RamRw, &tables)
            .unwrap();
        p2m.faults.fail_after(0);
        assert_eq!(p2m.unmap(Gfn(3), 1, &tables), Err(P2mError::NoMemory));
        assert_eq!(p2m.lookup(Gfn(3)).map(|e| e.mfn), Some(Mfn(3)));
        assert_eq!(
            p2m.map(Gfn(1 << 28), Mfn(0), 1, P2mType::RamRw, &tables),
            Err(P2mError::OutOfRange)
        );
    }
}
