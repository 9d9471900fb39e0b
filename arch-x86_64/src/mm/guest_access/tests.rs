//! Copies over a small machine: nested tables, the guest's tables and its data, all in host memory.

use core::ops::Range;
use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    sync::Mutex,
    vec,
    vec::Vec,
};

use proptest::prelude::*;
use xenolith_arch_common::second_level::SecondLevel;
use xenolith_hal::{NoMemory, P2m, TableFrames};

use super::*;
use crate::{
    guest::paging::PageFault,
    mm::second_level::{Npt, shape},
};

/// Nested tables.
#[derive(Default)]
struct Nested(Mutex<HashMap<(u64, usize), u64>>);

impl TableMemory for Nested {
    fn load(&self, table: Mfn, index: usize) -> u64 {
        let words = self.0.lock().unwrap();
        words.get(&(table.0, index)).copied().unwrap_or(0)
    }
    fn store(&self, table: Mfn, index: usize, value: u64) {
        self.0.lock().unwrap().insert((table.0, index), value);
    }
    fn flush(&self, _: Mfn, _: Range<Gfn>) {}
}

struct Tables(Cell<u64>);

impl TableFrames for Tables {
    fn allocate(&self) -> Result<Mfn, NoMemory> {
        self.0.set(self.0.get() + 1);
        Ok(Mfn(self.0.get()))
    }
    fn free(&self, _: Mfn) {}
}

const FRAMES: usize = 32;
/// Machine frames of RAM begin here: not where the guest sees them.
const FIRST: u64 = 0x100;

/// The machine's RAM, and how many table words were loaded.
struct Machine {
    bytes: RefCell<Vec<u8>>,
    loads: Cell<usize>,
}

#[derive(Clone, Copy)]
struct Ram<'a>(&'a Machine);

impl Ram<'_> {
    fn bytes(frame: usize, offset: usize) -> Range<usize> {
        let at = frame * PAGE_SIZE + (offset & 0xff8);
        at..at + 8
    }
}

impl Frames for Ram<'_> {
    type Frame = usize;
    type Word = (usize, usize);

    fn frame(&self, mfn: Mfn) -> Option<usize> {
        let frame = mfn.0.checked_sub(FIRST)? as usize;
        (frame < FRAMES).then_some(frame)
    }
    fn word(&self, frame: usize, offset: usize) -> (usize, usize) {
        (frame, offset)
    }
    fn load(&self, (frame, offset): (usize, usize)) -> u64 {
        self.0.loads.set(self.0.loads.get() + 1);
        let bytes = self.0.bytes.borrow();
        u64::from_le_bytes(bytes[Self::bytes(frame, offset)].try_into().unwrap())
    }
    fn compare_exchange(&self, (frame, offset): (usize, usize), old: u64, new: u64) -> bool {
        let mut bytes = self.0.bytes.borrow_mut();
        let word = &mut bytes[Self::bytes(frame, offset)];
        let same = *word == old.to_le_bytes();
        if same {
            word.copy_from_slice(&new.to_le_bytes());
        }
        same
    }
    fn read(&self, frame: usize, offset: usize, buf: &mut [u8]) {
        let at = frame * PAGE_SIZE + offset;
        let len = buf.len().min(PAGE_SIZE - offset);
        buf[..len].copy_from_slice(&self.0.bytes.borrow()[at..at + len]);
    }
    fn write(&self, frame: usize, offset: usize, buf: &[u8]) {
        let at = frame * PAGE_SIZE + offset;
        let len = buf.len().min(PAGE_SIZE - offset);
        self.0.bytes.borrow_mut()[at..at + len].copy_from_slice(&buf[..len]);
    }
}

const LIMITS: PagingLimits = PagingLimits {
    physical_bits: 40,
    gigabyte_pages: true,
};

/// Where the guest's pages begin: linear page `n` from here has the leaf entry `n` in guest frame 4.
const BASE: u64 = 0xffff_8000_0000_0000;
const USUAL: u64 = 0b110_0011;

/// A guest whose tables are guest frames 1 to 4 and whose guest frame `n` is machine frame `FIRST + n`.
struct Guest {
    machine: Machine,
    p2m: SecondLevel<Npt, Nested>,
    tables: Tables,
    state: PagingState,
}

impl Guest {
    fn new() -> Self {
        let guest = Self {
            machine: Machine {
                bytes: RefCell::new(vec![0; FRAMES * PAGE_SIZE]),
                loads: Cell::new(0),
            },
            p2m: SecondLevel::new(Nested::default(), shape(40, true), Mfn(1)),
            tables: Tables(Cell::new(1000)),
            state: PagingState {
                cr0: 1 << 31 | 1 << 16,
                cr3: 0x1000,
                cr4: 1 << 5,
                efer: 1 << 10 | 1 << 11,
                cpl: 0,
                ac: false,
            },
        };
        let count = FRAMES as u64;
        guest.map(0, FIRST, count, P2mType::RamRw);
        guest.set(1, 256, 0x2000 | USUAL);
        guest.set(2, 0, 0x3000 | USUAL);
        guest.set(3, 0, 0x4000 | USUAL);
        for page in 0..8 {
            guest.set_leaf(page, 8 + page);
        }
        guest
    }

    fn map(&self, gfn: u64, mfn: u64, count: u64, kind: P2mType) {
        self.p2m
            .map(Gfn(gfn), Mfn(mfn), count, kind, &self.tables)
            .unwrap();
    }

    /// Entry `index` of the guest's table in a guest frame.
    fn set(&self, gfn: usize, index: usize, value: u64) {
        let at = gfn * PAGE_SIZE + index * 8;
        self.machine.bytes.borrow_mut()[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }

    fn set_leaf(&self, page: u64, gfn: u64) {
        self.set(4, page as usize, gfn << 12 | USUAL);
    }

    fn fill(&self, frame: usize, value: u8) {
        self.machine.bytes.borrow_mut()[frame * PAGE_SIZE..(frame + 1) * PAGE_SIZE].fill(value);
    }

    fn byte(&self, frame: usize, offset: usize) -> u8 {
        self.machine.bytes.borrow()[frame * PAGE_SIZE + offset]
    }

    /// The address space as it is after the guest ran.
    fn access<'c, 'a: 'c>(
        &'a self,
        cache: &'c mut TranslationCache<Ram<'a>>,
    ) -> GuestAccess<'c, Npt, Nested, Ram<'a>> {
        cache.next_exit();
        GuestAccess {
            p2m: &self.p2m,
            frames: Ram(&self.machine),
            state: self.state,
            limits: LIMITS,
            cache,
        }
    }

    fn read_byte<'a>(
        &'a self,
        cache: &mut TranslationCache<Ram<'a>>,
        at: u64,
    ) -> Result<u8, WalkError> {
        let mut byte = [0];
        let done = self.access(cache).read(GuestVirt(at), &mut byte);
        done.map(|()| byte[0])
    }
}

#[test]
fn a_copy_over_many_pages_takes_each_where_it_lies() {
    let guest = Guest::new();
    guest.set_leaf(1, 20);
    let mut cache = TranslationCache::new();
    let mut access = guest.access(&mut cache);
    let text: Vec<u8> = (0..3 * PAGE_SIZE).map(|i| (i % 251) as u8).collect();
    access.write(GuestVirt(BASE + 100), &text).unwrap();
    let mut back = vec![0; text.len()];
    access.read(GuestVirt(BASE + 100), &mut back).unwrap();
    assert_eq!(back, text);
    assert_eq!(guest.byte(20, 0), text[PAGE_SIZE - 100]);
    assert_eq!(access_none(&guest), Ok(()));
}

fn access_none(guest: &Guest) -> Result<(), WalkError> {
    let mut cache = TranslationCache::new();
    guest.access(&mut cache).read(GuestVirt(1 << 47), &mut [])
}

#[test]
fn a_second_copy_loads_each_table_word_once_and_walks_nothing() {
    let guest = Guest::new();
    let mut cache = TranslationCache::new();
    guest
        .access(&mut cache)
        .write(GuestVirt(BASE), &[1; 16])
        .unwrap();
    guest.p2m.memory().0.lock().unwrap().clear();
    guest.machine.loads.set(0);
    let mut access = guest.access(&mut cache);
    for _ in 0..3 {
        let mut buf = [0; 16];
        access.read(GuestVirt(BASE), &mut buf).unwrap();
        assert_eq!((buf, guest.machine.loads.get()), ([1; 16], 4));
    }
}

#[test]
fn copies_by_a_kept_way_move_the_same_bytes_as_those_that_walk() {
    let guest = Guest::new();
    let mut cache = TranslationCache::new();
    let registers = || Registers::of(&guest.state);
    let space = (&guest.p2m, Ram(&guest.machine));
    let mut few = [0; 5];
    assert!(!cache.read(space, registers, GuestVirt(BASE), &mut few));
    guest
        .access(&mut cache)
        .write(GuestVirt(BASE), &[7, 6, 5, 4, 3])
        .unwrap();
    assert!(cache.read(space, registers, GuestVirt(BASE), &mut few));
    assert_eq!(few, [7, 6, 5, 4, 3]);
    assert!(cache.write(space, registers, GuestVirt(BASE + 1), &[9]));
    assert_eq!(guest.byte(8, 1), 9);
    let over_two_pages = GuestVirt(BASE + 0xffe);
    assert!(!cache.read(space, registers, over_two_pages, &mut few));
    assert_eq!(cache.fetch_opcode(space, registers, GuestVirt(BASE)), None);
    assert!(guest.access(&mut cache).fetch(GuestVirt(BASE)).is_ok());
    let opcode = cache.fetch_opcode(space, registers, GuestVirt(BASE));
    assert_eq!(opcode, Some([7, 9, 5, 4]));
}

#[test]
fn a_changed_table_word_is_seen_at_once_at_every_level() {
    let guest = Guest::new();
    guest.fill(8, 0x11);
    guest.fill(21, 0x22);
    let mut cache = TranslationCache::new();
    assert_eq!(guest.read_byte(&mut cache, BASE), Ok(0x11));
    guest.set_leaf(0, 21);
    assert_eq!(guest.read_byte(&mut cache, BASE), Ok(0x22));
    for (table, index) in [(1, 256), (2, 0), (3, 0), (4, 0)] {
        guest.set(table, index, 0);
        let fault = PageFault {
            address: BASE,
            code: 0,
        };
        let result = guest.read_byte(&mut cache, BASE);
        assert_eq!(result, Err(WalkError::Page(fault)));
        let next = (table as u64 + 1) << 12;
        guest.set(
            table,
            index,
            if table == 4 { 21 << 12 } else { next } | USUAL,
        );
        assert_eq!(guest.read_byte(&mut cache, BASE), Ok(0x22));
    }
}

#[test]
fn memory_that_the_domain_lost_is_not_reached_again() {
    let guest = Guest::new();
    guest.fill(8, 0x33);
    guest.fill(9, 0x44);
    let mut cache = TranslationCache::new();
    assert_eq!(guest.read_byte(&mut cache, BASE), Ok(0x33));
    guest.p2m.unmap(Gfn(8), 1, &guest.tables).unwrap();
    let gone = Err(WalkError::Memory(GuestPhys(8 << 12)));
    assert_eq!(guest.read_byte(&mut cache, BASE), gone);
    guest.map(8, FIRST + 9, 1, P2mType::RamRw);
    assert_eq!(guest.read_byte(&mut cache, BASE), Ok(0x44));
    // A table that moved to another machine frame.
    guest.map(4, FIRST + 22, 1, P2mType::RamRw);
    assert!(matches!(
        guest.read_byte(&mut cache, BASE),
        Err(WalkError::Page(_))
    ));
}

#[test]
fn memory_lost_elsewhere_costs_no_walk() {
    let guest = Guest::new();
    let mut cache = TranslationCache::new();
    guest.read_byte(&mut cache, BASE).unwrap();
    guest.p2m.unmap(Gfn(25), 1, &guest.tables).unwrap();
    guest.p2m.memory().0.lock().unwrap().clear();
    assert_eq!(guest.read_byte(&mut cache, BASE), Ok(0));
}

#[test]
fn what_is_mapped_from_others_is_reached_but_not_kept() {
    let guest = Guest::new();
    guest.fill(16, 0x55);
    guest.fill(17, 0x66);
    guest.map(100, FIRST + 16, 1, P2mType::GrantRo);
    guest.set_leaf(0, 100);
    let mut cache = TranslationCache::new();
    let generation = guest.p2m.generation();
    assert_eq!(guest.read_byte(&mut cache, BASE), Ok(0x55));
    let refused = Err(WalkError::Memory(GuestPhys(100 << 12)));
    let mut other = TranslationCache::new();
    assert_eq!(
        guest.access(&mut other).write(GuestVirt(BASE), &[1]),
        refused
    );
    guest.map(100, FIRST + 17, 1, P2mType::GrantRw);
    assert_eq!(guest.read_byte(&mut cache, BASE), Ok(0x66));
    assert_eq!(guest.p2m.generation(), generation);
}

#[test]
fn a_device_is_no_memory() {
    let guest = Guest::new();
    guest.map(100, FIRST + 16, 1, P2mType::MmioDirect);
    guest.set_leaf(0, 100);
    let mut cache = TranslationCache::new();
    let refused = Err(WalkError::Memory(GuestPhys(100 << 12)));
    assert_eq!(guest.read_byte(&mut cache, BASE), refused.map(|()| 0));
}

#[test]
fn what_a_load_found_does_not_allow_a_store() {
    let guest = Guest::new();
    guest.set(4, 0, 8 << 12 | USUAL & !2);
    let mut cache = TranslationCache::new();
    let mut access = guest.access(&mut cache);
    access.read(GuestVirt(BASE), &mut [0]).unwrap();
    let fault = PageFault {
        address: BASE,
        code: 3,
    };
    let result = access.write(GuestVirt(BASE), &[1]);
    assert_eq!(result, Err(WalkError::Page(fault)));
    assert!(access.fetch(GuestVirt(BASE)).is_ok());
}

#[test]
fn a_store_dirties_the_page_once_more_when_the_guest_cleaned_it() {
    let guest = Guest::new();
    let mut cache = TranslationCache::new();
    for _ in 0..2 {
        guest.set(4, 0, 8 << 12 | 3);
        guest
            .access(&mut cache)
            .write(GuestVirt(BASE), &[1])
            .unwrap();
        assert_eq!(guest.byte(4, 0), 0x63);
    }
}

#[test]
fn another_privilege_does_not_use_what_a_kernel_kept() {
    let mut guest = Guest::new();
    {
        let mut cache = TranslationCache::new();
        assert!(guest.read_byte(&mut cache, BASE).is_ok());
    }
    guest.state.cpl = 3;
    let user = guest.state;
    guest.state.cpl = 0;
    let mut cache = TranslationCache::new();
    assert!(guest.read_byte(&mut cache, BASE).is_ok());
    let mut access = guest.access(&mut cache);
    access.cache.next_exit();
    access.state = user;
    let fault = PageFault {
        address: BASE,
        code: 5,
    };
    let result = access.read(GuestVirt(BASE), &mut [0]);
    assert_eq!(result, Err(WalkError::Page(fault)));
}

#[test]
fn a_hypercall_is_served_with_the_registers_with_which_its_opcode_was_fetched() {
    let guest = Guest::new();
    let mut cache = TranslationCache::new();
    guest.access(&mut cache).fetch(GuestVirt(BASE)).unwrap();
    guest.read_byte(&mut cache, BASE).unwrap();
    let usual = Registers::of(&guest.state);
    let other = Registers {
        cr3: 0x5000,
        ..usual
    };
    let looks = Cell::new(0);
    let place = || (&guest.p2m, Ram(&guest.machine));
    let look = |found| {
        let looks = &looks;
        move || {
            looks.set(looks.get() + 1);
            found
        }
    };
    let at = GuestVirt(BASE);

    cache.next_exit();
    assert!(cache.fetch_opcode(place(), look(usual), at).is_some());
    assert!(cache.read(place(), look(usual), at, &mut [0]));
    assert_eq!(looks.get(), 1);

    // The guest went to another address space since.
    cache.next_exit();
    assert_eq!(cache.fetch_opcode(place(), look(other), at), None);
    assert!(!cache.read(place(), look(other), at, &mut [0]));

    // No opcode was fetched in this exit.
    cache.next_exit();
    assert!(!cache.read(place(), look(other), at, &mut [0]));
    assert!(cache.read(place(), look(usual), at, &mut [0]));
}

#[test]
fn an_instruction_is_fetched_over_two_pages_as_far_as_they_go() {
    let guest = Guest::new();
    guest.fill(8, 0x90);
    guest.fill(9, 0xf4);
    let mut cache = TranslationCache::new();
    let mut access = guest.access(&mut cache);
    let whole = access.fetch(GuestVirt(BASE + 0xff0)).unwrap();
    assert_eq!(whole.as_slice(), [0x90; 15]);
    let both = access.fetch(GuestVirt(BASE + 0xffd)).unwrap();
    let wanted = [&[0x90; 3][..], &[0xf4; 12]].concat();
    assert_eq!(both.as_slice(), wanted);
    guest.set(4, 1, 0);
    let mut access = guest.access(&mut cache);
    let short = access.fetch(GuestVirt(BASE + 0xffd)).unwrap();
    assert_eq!(short.as_slice(), [0x90; 3]);
    let fault = PageFault {
        address: BASE + 0x1000,
        code: 16,
    };
    let none = access.fetch(GuestVirt(BASE + 0x1000));
    assert_eq!(none, Err(WalkError::Page(fault)));
    guest.set(4, 0, 8 << 12 | USUAL | 1 << 63);
    assert!(guest.access(&mut cache).fetch(GuestVirt(BASE)).is_err());
}

#[test]
fn a_translation_may_lead_to_where_nothing_is() {
    let guest = Guest::new();
    guest.set_leaf(0, 0x12345);
    let mut cache = TranslationCache::new();
    let access = guest.access(&mut cache);
    let found = access.translate(GuestVirt(BASE + 5), Access::Read).unwrap();
    assert_eq!(found.address, GuestPhys(0x1234_5005));
}

#[derive(Clone, Debug)]
enum Step {
    Leaf(u64, u64, u64),
    Nested(u64, u64, P2mType),
    Remove(u64),
    Key(u8, bool),
    Root(bool),
    Copy(u64, Access),
}

fn a_step() -> impl Strategy<Value = Step> {
    let bits = prop_oneof![4 => Just(USUAL), 1 => 0u64..0x80, 1 => Just(USUAL | 4 | 1 << 63)];
    let kind = prop_oneof![
        3 => Just(P2mType::RamRw),
        1 => Just(P2mType::RamRo),
        1 => Just(P2mType::GrantRw),
        1 => Just(P2mType::ForeignRo)
    ];
    let access = prop_oneof![Just(Access::Read), Just(Access::Write), Just(Access::Fetch)];
    prop_oneof![
        2 => (0u64..4, 8u64..16, bits).prop_map(|(page, gfn, bits)| Step::Leaf(page, gfn, bits)),
        1 => (3u64..16, 3u64..16, kind).prop_map(|(gfn, frame, kind)| Step::Nested(gfn, frame, kind)),
        1 => (3u64..16).prop_map(Step::Remove),
        1 => (0u8..4, any::<bool>()).prop_map(|(cpl, ac)| Step::Key(cpl, ac)),
        1 => any::<bool>().prop_map(Step::Root),
        8 => (0u64..4, access).prop_map(|(page, access)| Step::Copy(page, access)),
    ]
}

proptest! {
    /// A copy through the cache answers as one that walks anew, whatever guest and hypervisor changed between.
    #[test]
    fn what_is_kept_is_never_wrong(steps in proptest::collection::vec(a_step(), 1..80)) {
        let guest = Guest::new();
        guest.set(5, 256, 0x2000 | USUAL);
        for frame in 8..FRAMES {
            guest.fill(frame, frame as u8);
        }
        let mut cache = TranslationCache::new();
        let mut state = PagingState { cr4: 1 << 5 | 1 << 21, ..guest.state };
        for step in steps {
            if matches!(step, Step::Leaf(..) | Step::Key(..) | Step::Root(_)) {
                cache.next_exit();
            }
            match step {
                Step::Leaf(page, gfn, bits) => guest.set(4, page as usize, gfn << 12 | bits),
                Step::Nested(gfn, frame, kind) => guest.map(gfn, FIRST + frame, 1, kind),
                Step::Remove(gfn) => guest.p2m.unmap(Gfn(gfn), 1, &guest.tables).unwrap(),
                Step::Key(cpl, ac) => (state.cpl, state.ac) = (cpl, ac),
                Step::Root(other) => state.cr3 = if other { 0x5000 } else { 0x1000 },
                Step::Copy(page, access) => {
                    let at = GuestVirt(BASE + page * 0x1000);
                    let mut empty = TranslationCache::new();
                    let run = |cache: &mut TranslationCache<_>| {
                        let held = guest.p2m.read();
                        GuestAccess {
                            p2m: &guest.p2m,
                            frames: Ram(&guest.machine),
                            state,
                            limits: LIMITS,
                            cache,
                        }
                        .frame(at, access, &held)
                    };
                    let (kept, anew) = (run(&mut cache), run(&mut empty));
                    prop_assert_eq!(kept, anew);
                }
            }
        }
    }
}
