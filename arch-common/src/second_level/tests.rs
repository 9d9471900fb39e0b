//! Second-level tables over a map of words, with both ways of changing entries, against a plain map of frames.

extern crate std;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Mutex,
    vec,
    vec::Vec,
};

use proptest::prelude::*;
use xenolith_hal::NoMemory;

use super::*;

/// Bit 0 valid, bit 1 table, type from bit 2, frame from bit 12.
struct Plain<const BREAK: bool>;

impl<const BREAK: bool> Format for Plain<BREAK> {
    const BREAK_BEFORE_MAKE: bool = BREAK;
    const MFN_LIMIT: u64 = 1 << 40;

    fn table(table: Mfn) -> u64 {
        table.0 << 12 | 3
    }
    fn leaf(mfn: Mfn, kind: P2mType, _: Order) -> u64 {
        mfn.0 << 12 | (kind as u64) << 2 | 1
    }
    fn decode(entry: u64, order: Order) -> Slot {
        let mfn = Mfn(entry >> 12);
        match entry & 3 {
            1 => P2mType::from_bits((entry >> 2 & 0xf) as u8)
                .map_or(Slot::Empty, |kind| Slot::Leaf(mfn, kind)),
            3 if order > 0 => Slot::Table(mfn),
            _ => Slot::Empty,
        }
    }
}

#[derive(Default)]
struct State {
    words: HashMap<(u64, usize), u64>,
    flushed: Vec<(u64, u64)>,
    next: u64,
    in_use: BTreeSet<u64>,
    /// Frames are not handed out again.
    freed: BTreeSet<u64>,
    left: u64,
}

/// Machine memory for tables, and who owns which table frame.
struct Fake {
    state: Mutex<State>,
    breaks: bool,
}

impl Fake {
    fn new(breaks: bool) -> Self {
        let state = State {
            next: 0x20_0000,
            left: u64::MAX,
            ..State::default()
        };
        Self {
            state: Mutex::new(state),
            breaks,
        }
    }

    fn take_flushed(&self) -> Vec<(u64, u64)> {
        core::mem::take(&mut self.state.lock().unwrap().flushed)
    }
}

impl TableMemory for &Fake {
    fn load(&self, table: Mfn, index: usize) -> u64 {
        let state = self.state.lock().unwrap();
        assert!(!state.freed.contains(&table.0), "a freed table is read");
        state.words.get(&(table.0, index)).copied().unwrap_or(0)
    }
    fn store(&self, table: Mfn, index: usize, value: u64) {
        let mut state = self.state.lock().unwrap();
        assert!(!state.freed.contains(&table.0), "a freed table is written");
        let old = state.words.insert((table.0, index), value).unwrap_or(0);
        assert!(
            !self.breaks || old & 1 == 0 || value & 1 == 0,
            "valid to valid without a break"
        );
    }
    fn flush(&self, _: Mfn, changed: Range<Gfn>) {
        let mut state = self.state.lock().unwrap();
        state.flushed.push((changed.start.0, changed.end.0));
    }
}

struct Frames<'a>(&'a Fake);

impl TableFrames for Frames<'_> {
    fn allocate(&self) -> Result<Mfn, NoMemory> {
        let mut state = self.0.state.lock().unwrap();
        if state.left == 0 {
            return Err(NoMemory);
        }
        state.left -= 1;
        state.next += 1;
        let frame = state.next;
        state.in_use.insert(frame);
        Ok(Mfn(frame))
    }
    fn free(&self, mfn: Mfn) {
        let mut state = self.0.state.lock().unwrap();
        let first_time = state.freed.insert(mfn.0);
        assert!(first_time, "freed twice");
        let was = state.in_use.remove(&mfn.0);
        assert!(was || mfn.0 < 0x20_0000, "not from here");
    }
}

fn frames(fake: &Fake) -> Frames<'_> {
    Frames(fake)
}

const ROOT: Mfn = Mfn(0x10_0000);
const SHAPE: Shape = Shape {
    bits: 40,
    levels: 4,
    largest: 18,
};

type Swapping<'a> = SecondLevel<Plain<false>, &'a Fake>;

#[test]
fn the_largest_block_that_fits_is_used() {
    let fake = Fake::new(false);
    let (p2m, tables) = (Swapping::new(&fake, SHAPE, ROOT), frames(&fake));
    let count = 0x40000 + 0x200 + 1;
    p2m.map(Gfn(0x40000), Mfn(0x40000), count, P2mType::RamRw, &tables)
        .unwrap();
    assert_eq!(p2m.lookup(Gfn(0x7ffff)).unwrap().order, 18);
    assert_eq!(p2m.lookup(Gfn(0x801ff)).unwrap().order, 9);
    let last = p2m.lookup(Gfn(0x80200)).unwrap();
    assert_eq!((last.mfn, last.order), (Mfn(0x80200), 0));
    assert_eq!(p2m.lookup(Gfn(0x80201)), None);
    assert_eq!(fake.take_flushed(), [], "nothing was there before");
}

#[test]
fn a_cpu_without_gigabyte_pages_gets_none() {
    let fake = Fake::new(false);
    let shape = Shape {
        largest: 9,
        ..SHAPE
    };
    let (p2m, tables) = (Swapping::new(&fake, shape, ROOT), frames(&fake));
    p2m.map(Gfn(0), Mfn(0), 0x40000, P2mType::RamRw, &tables)
        .unwrap();
    assert_eq!(p2m.lookup(Gfn(0x12345)).unwrap().order, 9);
}

#[test]
fn one_call_flushes_once_over_all_that_it_changed() {
    let fake = Fake::new(false);
    let (p2m, tables) = (Swapping::new(&fake, SHAPE, ROOT), frames(&fake));
    p2m.map(Gfn(0x1000), Mfn(0x1001), 64, P2mType::RamRw, &tables)
        .unwrap();
    p2m.unmap(Gfn(0x1008), 8, &tables).unwrap();
    assert_eq!(fake.take_flushed(), [(0x1008, 0x1010)]);
    p2m.unmap(Gfn(0x1008), 8, &tables).unwrap();
    assert_eq!(fake.take_flushed(), [], "a hole stays a hole");
}

#[test]
fn the_generation_tells_of_lost_memory_and_of_nothing_else() {
    let fake = Fake::new(false);
    let (p2m, tables) = (Swapping::new(&fake, SHAPE, ROOT), frames(&fake));
    let start = p2m.generation();
    p2m.map(Gfn(1), Mfn(1), 2, P2mType::RamRw, &tables).unwrap();
    p2m.exchange(Gfn(8), Some((Mfn(9), P2mType::GrantRw)), &tables)
        .unwrap();
    p2m.exchange(Gfn(8), None, &tables).unwrap();
    p2m.map(Gfn(1), Mfn(1), 1, P2mType::RamRw, &tables).unwrap();
    assert_eq!(p2m.generation(), start);
    p2m.map(Gfn(1), Mfn(1), 1, P2mType::RamRo, &tables).unwrap();
    let read_only = p2m.generation();
    assert_ne!(read_only, start, "a right was lost");
    p2m.map(Gfn(1), Mfn(1), 1, P2mType::RamRw, &tables).unwrap();
    assert_eq!(p2m.generation(), read_only, "a right was given");
    p2m.exchange(Gfn(1), Some((Mfn(7), P2mType::RamRw)), &tables)
        .unwrap();
    let moved = p2m.generation();
    assert_ne!(moved, read_only);
    p2m.unmap(Gfn(2), 1, &tables).unwrap();
    assert_ne!(p2m.generation(), moved);
}

#[test]
fn what_lies_elsewhere_still_holds_when_a_page_goes() {
    let fake = Fake::new(false);
    let (p2m, tables) = (Swapping::new(&fake, SHAPE, ROOT), frames(&fake));
    p2m.map(Gfn(1), Mfn(1), 100, P2mType::RamRw, &tables)
        .unwrap();
    let (start, near, far) = (
        p2m.generation(),
        Footprint::default().with(Gfn(7)),
        Footprint::default().with(Gfn(8)).with(Gfn(9)),
    );
    assert!(p2m.read().still_holds(start, near));
    p2m.unmap(Gfn(7), 1, &tables).unwrap();
    assert!(!p2m.read().still_holds(start, near));
    assert!(p2m.read().still_holds(start, far));
    assert!(p2m.read().still_holds(p2m.generation(), near));
    for gfn in 20..20 + REMEMBERED as u64 {
        p2m.unmap(Gfn(gfn), 1, &tables).unwrap();
    }
    assert!(!p2m.read().still_holds(start, far), "too long ago to tell");
}

#[test]
fn a_block_over_a_table_frees_the_table_after_the_flush() {
    for breaks in [false, true] {
        let fake = Fake::new(breaks);
        let tables = frames(&fake);
        let fill = |p2m: &dyn Fn(Gfn, Mfn, u64)| {
            p2m(Gfn(0x200), Mfn(0x401), 0x200);
            p2m(Gfn(0x200), Mfn(0x600), 0x200);
        };
        let order = if breaks {
            let p2m = SecondLevel::<Plain<true>, _>::new(&fake, SHAPE, ROOT);
            fill(&|g, m, n| p2m.map(g, m, n, P2mType::RamRw, &tables).unwrap());
            p2m.lookup(Gfn(0x3ff)).unwrap().order
        } else {
            let p2m = Swapping::new(&fake, SHAPE, ROOT);
            fill(&|g, m, n| p2m.map(g, m, n, P2mType::RamRw, &tables).unwrap());
            p2m.lookup(Gfn(0x3ff)).unwrap().order
        };
        assert_eq!(order, 9);
        assert_eq!(fake.take_flushed(), [(0x200, 0x400)]);
        assert_eq!(fake.state.lock().unwrap().in_use.len(), 2);
    }
}

#[test]
fn frames_beyond_the_address_sizes_are_refused() {
    let fake = Fake::new(false);
    let (p2m, tables) = (Swapping::new(&fake, SHAPE, ROOT), frames(&fake));
    let top = p2m.limit();
    let refused = Err(P2mError::OutOfRange);
    let ram = P2mType::RamRw;
    assert_eq!(p2m.map(top, Mfn(0), 1, ram, &tables), refused);
    assert_eq!(p2m.map(Gfn(0), Mfn(1 << 40), 1, ram, &tables), refused);
    assert_eq!(p2m.map(Gfn(0), Mfn(u64::MAX), 2, ram, &tables), refused);
    assert_eq!(
        p2m.exchange(Gfn(0), Some((Mfn(1 << 40), ram)), &tables),
        Err(P2mError::OutOfRange)
    );
    assert_eq!(p2m.unmap(Gfn(u64::MAX), 2, &tables), refused);
    assert_eq!(p2m.lookup(top), None);
    assert_eq!(p2m.next_mapped(Gfn(u64::MAX)), None);
}

#[test]
fn a_root_of_several_frames_reaches_all_of_the_address_space() {
    let fake = Fake::new(false);
    let shape = Shape {
        bits: 41,
        levels: 3,
        largest: 18,
    };
    assert_eq!(shape.root_order(), 2);
    let (p2m, tables) = (Swapping::new(&fake, shape, ROOT), frames(&fake));
    for gfn in [0, 1 << 27, 2 << 27, 3 << 27, (1 << 29) - 1] {
        p2m.map(Gfn(gfn), Mfn(gfn + 5), 1, P2mType::RamRw, &tables)
            .unwrap();
    }
    for gfn in [0, 1 << 27, 2 << 27, 3 << 27, (1 << 29) - 1] {
        assert_eq!(p2m.lookup(Gfn(gfn)).unwrap().mfn, Mfn(gfn + 5));
    }
    p2m.release(&tables);
    assert!(fake.state.lock().unwrap().in_use.is_empty());
}

#[test]
fn who_still_has_a_domain_finds_nothing_once_its_tables_are_given_back() {
    let fake = Fake::new(false);
    let (p2m, tables) = (Swapping::new(&fake, SHAPE, ROOT), frames(&fake));
    let ram = P2mType::RamRw;
    // A page found by a shortcut, another from the root, and a block.
    for (gfn, count) in [(5, 1), (1 << 27, 1), (1 << 18, 1 << 18)] {
        p2m.map(Gfn(gfn), Mfn(gfn), count, ram, &tables).unwrap();
        assert_eq!(p2m.lookup(Gfn(gfn)).unwrap().mfn, Mfn(gfn));
    }
    let generation = p2m.generation();
    fake.take_flushed();
    p2m.release(&tables);
    let flushed = fake.take_flushed();
    let state = || fake.state.lock().unwrap();
    assert!(state().in_use.is_empty() && state().freed.contains(&ROOT.0));

    for gfn in [5, 6, 1 << 18, 1 << 27] {
        assert_eq!(p2m.lookup(Gfn(gfn)), None);
    }
    let footprint = Footprint::default().with(Gfn(5));
    assert!(!p2m.read().still_holds(generation, footprint));
    assert_eq!(p2m.next_mapped(Gfn(0)), None);
    let refused = P2mError::OutOfRange;
    assert_eq!(p2m.map(Gfn(5), Mfn(5), 1, ram, &tables), Err(refused));
    assert_eq!(p2m.unmap(Gfn(5), 1, &tables), Err(refused));
    let new = Some((Mfn(5), ram));
    assert_eq!(p2m.exchange(Gfn(5), new, &tables), Err(refused));
    assert_eq!(p2m.remove_if(Gfn(5), (Mfn(5), ram), &tables), Err(refused));
    p2m.release(&tables);
    assert_eq!(flushed, [(0, 1 << 27), (1 << 27, 1 << 28)]);
}

#[derive(Clone, Debug)]
enum Step {
    Map(u64, u64, u64, P2mType),
    Unmap(u64, u64),
    Exchange(u64, Option<(u64, P2mType)>),
    RemoveIf(u64, u64, P2mType),
    Tables(u64),
}

fn a_kind() -> impl Strategy<Value = P2mType> {
    (1u8..=8).prop_map(|bits| P2mType::from_bits(bits).unwrap())
}

/// Frame numbers close together, so that steps meet, and often aligned to blocks.
fn a_frame() -> impl Strategy<Value = u64> {
    prop_oneof![
        0u64..0xa00,
        (0u64..5).prop_map(|n| n << 9),
        0x3_ff00u64..0x4_0100
    ]
}

fn a_count() -> impl Strategy<Value = u64> {
    prop_oneof![1u64..20, Just(0x200), Just(0x400), 0u64..0x500]
}

fn a_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (a_frame(), a_frame(), a_count(), a_kind()).prop_map(|(g, m, n, k)| Step::Map(g, m, n, k)),
        3 => (a_frame(), a_count()).prop_map(|(g, n)| Step::Unmap(g, n)),
        3 => (a_frame(), proptest::option::of((a_frame(), a_kind()))).prop_map(|(g, e)| Step::Exchange(g, e)),
        1 => (a_frame(), a_frame(), a_kind()).prop_map(|(g, m, k)| Step::RemoveIf(g, m, k)),
        1 => prop_oneof![Just(u64::MAX), 0u64..3].prop_map(Step::Tables),
    ]
}

type Model = BTreeMap<u64, (u64, P2mType)>;

fn content<F: Format>(p2m: &SecondLevel<F, &Fake>) -> Model {
    let mut found = Model::new();
    let mut next = Gfn(0);
    while let Some((gfn, entry, count)) = p2m.next_mapped(next) {
        for i in 0..count {
            found.insert(gfn.0 + i, (entry.mfn.0 + i, entry.kind));
        }
        next = gfn.plus(count);
    }
    found
}

fn behaves_as_a_map<const BREAK: bool>(steps: &[Step]) {
    let fake = Fake::new(BREAK);
    let p2m = SecondLevel::<Plain<BREAK>, _>::new(&fake, SHAPE, ROOT);
    let tables = frames(&fake);
    let mut model = Model::new();
    for step in steps {
        let generation = p2m.generation();
        let mut wanted = model.clone();
        let done = match *step {
            Step::Map(g, m, n, kind) => {
                wanted.extend((0..n).map(|i| (g + i, (m + i, kind))));
                p2m.map(Gfn(g), Mfn(m), n, kind, &tables)
            }
            Step::Unmap(g, n) => {
                wanted.retain(|at, _| *at < g || *at >= g + n);
                p2m.unmap(Gfn(g), n, &tables)
            }
            Step::Exchange(g, new) => {
                let old = match new {
                    Some(new) => wanted.insert(g, new),
                    None => wanted.remove(&g),
                };
                let new = new.map(|(m, kind)| (Mfn(m), kind));
                p2m.exchange(Gfn(g), new, &tables)
                    .map(|was| assert_eq!(was.map(|e| (e.mfn.0, e.kind)), old))
            }
            Step::RemoveIf(g, m, kind) => {
                let holds = model.get(&g) == Some(&(m, kind));
                if holds {
                    wanted.remove(&g);
                }
                p2m.remove_if(Gfn(g), (Mfn(m), kind), &tables)
                    .map(|did| assert_eq!(did, holds))
            }
            Step::Tables(left) => {
                fake.state.lock().unwrap().left = left;
                Ok(())
            }
        };
        let now = content(&p2m);
        if done.is_ok() {
            assert_eq!(now, wanted);
        } else {
            for (gfn, entry) in &now {
                let known = [model.get(gfn), wanted.get(gfn)];
                assert!(known.contains(&Some(entry)), "{gfn:#x} {entry:?}");
            }
        }
        let flushed = fake.take_flushed();
        for (gfn, old) in &model {
            let new = now.get(gfn);
            if new == Some(old) {
                continue;
            }
            assert!(
                flushed.iter().any(|(a, b)| (*a..*b).contains(gfn)),
                "{gfn:#x} changed without a flush"
            );
            let gained = (old.1, new) == (P2mType::RamRo, Some(&(old.0, P2mType::RamRw)));
            if is_memory(old.1) && !gained {
                assert_ne!(p2m.generation(), generation);
                let footprint = Footprint::default().with(Gfn(*gfn));
                assert!(!p2m.read().still_holds(generation, footprint));
            }
        }
        model = now;
    }
    p2m.release(&tables);
    assert_eq!(
        fake.state.lock().unwrap().in_use.iter().collect::<Vec<_>>(),
        vec![&0; 0]
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn tables_that_swap_entries_behave_as_a_map(steps in proptest::collection::vec(a_step(), 1..24)) {
        behaves_as_a_map::<false>(&steps);
    }

    #[test]
    fn tables_that_break_entries_first_behave_as_a_map(steps in proptest::collection::vec(a_step(), 1..24)) {
        behaves_as_a_map::<true>(&steps);
    }
}
