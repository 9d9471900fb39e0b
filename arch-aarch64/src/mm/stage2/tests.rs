//! Stage 2 over an array of frames.

extern crate std;

use core::cell::RefCell;
use std::{
    collections::{HashMap, HashSet},
    sync::Mutex,
    vec::Vec,
};

use xenolith_hal::NoMemory;

use super::*;

/// Tables in a map; remembers what was flushed.
#[derive(Default)]
struct Fake {
    words: Mutex<HashMap<(u64, usize), u64>>,
    flushed: Mutex<Vec<(u64, u64)>>,
    /// Frames are not handed out again.
    freed: Mutex<HashSet<u64>>,
}

impl Fake {
    fn check(&self, table: Mfn) {
        let freed = self.freed.lock().unwrap().contains(&table.0);
        assert!(!freed, "a freed table is used");
    }
}

impl TableMemory for &Fake {
    fn load(&self, table: Mfn, index: usize) -> u64 {
        self.check(table);
        self.words
            .lock()
            .unwrap()
            .get(&(table.0, index))
            .copied()
            .unwrap_or(0)
    }
    fn store(&self, table: Mfn, index: usize, value: u64) {
        self.check(table);
        let old = self
            .words
            .lock()
            .unwrap()
            .insert((table.0, index), value)
            .unwrap_or(0);
        assert!(
            old & 1 == 0 || value & 1 == 0,
            "valid to valid without a break"
        );
    }
    fn flush(&self, _: u64, gfn: Gfn, count: u64) {
        self.flushed.lock().unwrap().push((gfn.0, count));
    }
}

/// Hands out table frames and counts them.
struct Frames<'a>(RefCell<(u64, i64)>, &'a Fake);

impl TableFrames for Frames<'_> {
    fn allocate(&self) -> Result<Mfn, NoMemory> {
        let mut state = self.0.borrow_mut();
        state.0 += 1;
        state.1 += 1;
        Ok(Mfn(state.0))
    }
    fn free(&self, mfn: Mfn) {
        assert!(self.1.freed.lock().unwrap().insert(mfn.0), "freed twice");
        self.0.borrow_mut().1 -= 1;
    }
}

const ROOT: Mfn = Mfn(0x10_0000);
const SHAPE: Geometry = Geometry::for_pa_range(2);

fn frames(fake: &Fake) -> Frames<'_> {
    Frames(RefCell::new((0x20_0000, 0)), fake)
}

#[test]
fn the_largest_block_that_fits_is_used() {
    let fake = Fake::default();
    let (p2m, tables) = (Stage2::new(&fake, SHAPE, ROOT, 1), frames(&fake));
    p2m.map(
        Gfn(0x40000),
        Mfn(0x40000),
        0x40000 + 0x200 + 1,
        P2mType::RamRw,
        &tables,
    )
    .unwrap();
    assert_eq!(p2m.lookup(Gfn(0x7ffff)).unwrap().order, 18);
    assert_eq!(p2m.lookup(Gfn(0x801ff)).unwrap().order, 9);
    let last = p2m.lookup(Gfn(0x80200)).unwrap();
    assert_eq!((last.mfn, last.order), (Mfn(0x80200), 0));
    assert_eq!(p2m.lookup(Gfn(0x80201)), None);
}

#[test]
fn a_hole_cut_into_a_block_leaves_its_neighbours() {
    let fake = Fake::default();
    let (p2m, tables) = (Stage2::new(&fake, SHAPE, ROOT, 1), frames(&fake));
    p2m.map(Gfn(0x40000), Mfn(0x80000), 0x40000, P2mType::RamRw, &tables)
        .unwrap();
    p2m.unmap(Gfn(0x40003), 2, &tables).unwrap();
    assert_eq!(p2m.lookup(Gfn(0x40002)).unwrap().mfn, Mfn(0x80002));
    assert_eq!(p2m.lookup(Gfn(0x40003)), None);
    assert_eq!(p2m.lookup(Gfn(0x40004)), None);
    assert_eq!(p2m.lookup(Gfn(0x40005)).unwrap().mfn, Mfn(0x80005));
    assert!(!fake.flushed.lock().unwrap().is_empty());
}

#[test]
fn an_exchange_tells_what_was_there() {
    let fake = Fake::default();
    let (p2m, tables) = (Stage2::new(&fake, SHAPE, ROOT, 1), frames(&fake));
    assert_eq!(
        p2m.exchange(Gfn(5), Some((Mfn(7), P2mType::GrantRo)), &tables),
        Ok(None)
    );
    let old = p2m.exchange(Gfn(5), None, &tables).unwrap().unwrap();
    assert_eq!((old.mfn, old.kind), (Mfn(7), P2mType::GrantRo));
    assert_eq!(p2m.lookup(Gfn(5)), None);
}

#[test]
fn a_walk_over_all_mappings_finds_each_block_once() {
    let fake = Fake::default();
    let (p2m, tables) = (Stage2::new(&fake, SHAPE, ROOT, 1), frames(&fake));
    p2m.map(Gfn(0x200), Mfn(0x400), 0x201, P2mType::RamRw, &tables)
        .unwrap();
    p2m.map(Gfn(0x900_0000), Mfn(9), 1, P2mType::MmioDirect, &tables)
        .unwrap();
    let mut found = Vec::new();
    let mut next = Gfn(0);
    while let Some((gfn, entry, count)) = p2m.next_mapped(next) {
        found.push((gfn.0, entry.kind, count));
        next = gfn.plus(count);
    }
    assert_eq!(
        found,
        [
            (0x200, P2mType::RamRw, 0x200),
            (0x400, P2mType::RamRw, 1),
            (0x900_0000, P2mType::MmioDirect, 1)
        ]
    );
}

#[test]
fn every_table_comes_back_on_release() {
    let fake = Fake::default();
    let (p2m, tables) = (Stage2::new(&fake, SHAPE, ROOT, 1), frames(&fake));
    for i in 0..50 {
        p2m.map(Gfn(i * 0x1_2345), Mfn(i), 1, P2mType::RamRw, &tables)
            .unwrap();
    }
    p2m.release(&tables);
    // The two concatenated root frames were not allocated through `tables`.
    assert_eq!(tables.0.borrow().1, -2);
}

#[test]
fn who_still_has_a_domain_finds_nothing_once_its_tables_are_given_back() {
    let fake = Fake::default();
    let (p2m, tables) = (Stage2::new(&fake, SHAPE, ROOT, 1), frames(&fake));
    let ram = P2mType::RamRw;
    for (gfn, count) in [(5, 1), (0x40000, 0x40000)] {
        p2m.map(Gfn(gfn), Mfn(gfn), count, ram, &tables).unwrap();
        assert_eq!(p2m.lookup(Gfn(gfn)).unwrap().mfn, Mfn(gfn));
    }
    assert!(fake.flushed.lock().unwrap().is_empty());
    p2m.release(&tables);
    for gfn in [5, 6, 0x40000] {
        assert_eq!(p2m.lookup(Gfn(gfn)), None);
    }
    assert_eq!(p2m.next_mapped(Gfn(0)), None);
    let refused = P2mError::OutOfRange;
    assert_eq!(p2m.map(Gfn(5), Mfn(5), 1, ram, &tables), Err(refused));
    assert_eq!(p2m.unmap(Gfn(5), 1, &tables), Err(refused));
    let new = Some((Mfn(5), ram));
    assert_eq!(p2m.exchange(Gfn(5), new, &tables), Err(refused));
    let old = (Mfn(5), ram);
    assert_eq!(p2m.remove_if(Gfn(5), old, &tables), Err(refused));
    p2m.release(&tables);
    let flushed = fake.flushed.lock().unwrap();
    assert_eq!(*flushed, [(0, 0x40000), (0x40000, 0x40000)]);
}

#[test]
fn frames_beyond_the_address_size_are_refused() {
    let fake = Fake::default();
    let (p2m, tables) = (Stage2::new(&fake, SHAPE, ROOT, 1), frames(&fake));
    let top = p2m.limit();
    assert_eq!(
        p2m.map(top, Mfn(0), 1, P2mType::RamRw, &tables),
        Err(P2mError::OutOfRange)
    );
    assert_eq!(
        p2m.unmap(Gfn(u64::MAX), 2, &tables),
        Err(P2mError::OutOfRange)
    );
    assert_eq!(p2m.lookup(top), None);
    assert_eq!(SHAPE.root_order(), 1);
    assert_eq!(Geometry::for_pa_range(4).root_order(), 0);
    assert_eq!(Geometry::for_pa_range(3).root_order(), 3);
}

#[test]
fn a_conditional_removal_leaves_a_changed_entry() {
    let fake = Fake::default();
    let (p2m, tables) = (Stage2::new(&fake, SHAPE, ROOT, 1), frames(&fake));
    p2m.map(Gfn(1), Mfn(2), 1, P2mType::GrantRw, &tables)
        .unwrap();
    assert_eq!(
        p2m.remove_if(Gfn(1), (Mfn(3), P2mType::GrantRw), &tables),
        Ok(false)
    );
    assert_eq!(
        p2m.remove_if(Gfn(1), (Mfn(2), P2mType::GrantRw), &tables),
        Ok(true)
    );
    assert_eq!(p2m.lookup(Gfn(1)), None);
}
