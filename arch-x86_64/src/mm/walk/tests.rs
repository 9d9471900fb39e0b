//! Walks over tables in a map, against the rules of the SDM told once more in another form.

use std::{collections::HashMap, vec, vec::Vec};

use proptest::prelude::*;

use super::{code::*, *};

const PG_WP: u64 = 1 << 31 | 1 << 16;
const PSE: u64 = 1 << 4;
const PAE: u64 = 1 << 5;
const LA57: u64 = 1 << 12;
const SMEP: u64 = 1 << 20;
const SMAP: u64 = 1 << 21;
const LMA: u64 = 1 << 10;
const NXE: u64 = 1 << 11;
const NX: u64 = 1 << 63;
const P: u64 = 1;
const RW: u64 = 2;
const US: u64 = 4;
const A: u64 = 1 << 5;
const D: u64 = 1 << 6;
const PS: u64 = 1 << 7;

const LIMITS: PagingLimits = PagingLimits {
    physical_bits: 40,
    gigabyte_pages: true,
};

/// Guest-physical memory below 1 MiB; what was never written is 0.
#[derive(Default, Clone)]
struct Memory {
    words: HashMap<u64, u64>,
    read_only: bool,
    /// How many replacements find another word there first.
    races: u32,
}

impl Memory {
    fn set(&mut self, at: u64, value: u64) {
        self.words.insert(at, value);
    }
    fn get(&self, at: u64) -> u64 {
        self.words.get(&at).copied().unwrap_or(0)
    }
    fn set32(&mut self, at: u64, value: u32) {
        let shift = at % 8 * 8;
        let word = self.get(at & !7) & !(0xffff_ffff << shift) | u64::from(value) << shift;
        self.set(at & !7, word);
    }
}

impl TableWords for Memory {
    fn load(&mut self, _: usize, at: GuestPhys) -> Option<u64> {
        assert_eq!(at.0 % 8, 0);
        (at.0 < 1 << 20).then(|| self.get(at.0))
    }
    fn replace(&mut self, _: usize, at: GuestPhys, old: u64, new: u64) -> Option<bool> {
        if self.read_only {
            return None;
        }
        if self.races > 0 {
            self.races -= 1;
            return Some(false);
        }
        let same = self.get(at.0) == old;
        if same {
            self.set(at.0, new);
        }
        Some(same)
    }
}

fn long_mode() -> PagingState {
    PagingState {
        cr0: PG_WP,
        cr3: 0x1000,
        cr4: PAE,
        efer: LMA | NXE,
        cpl: 0,
        ac: false,
    }
}

const LINEAR: u64 = 0xffff_8123_4567_89ab;

/// Tables at 0x1000, 0x2000, 0x3000, 0x4000 for `LINEAR`, with these entries.
fn four_levels(entries: [u64; 4]) -> Memory {
    let mut memory = Memory::default();
    for (i, (entry, shift)) in entries.iter().zip([39, 30, 21, 12]).enumerate() {
        memory.set(entry_at(i, shift), *entry);
    }
    memory
}

fn entry_at(depth: usize, shift: u32) -> u64 {
    0x1000 * (depth as u64 + 1) + (LINEAR >> shift & 0x1ff) * 8
}

fn usual() -> [u64; 4] {
    [0x2000, 0x3000, 0x4000, 0x7_6543_2000].map(|address| address | P | RW | US | A | D)
}

fn fault_code(result: Result<Translation, WalkError>) -> u32 {
    match result {
        Err(WalkError::Page(fault)) => {
            assert_eq!(fault.address, LINEAR);
            fault.code
        }
        other => panic!("{other:?}"),
    }
}

fn go(state: &PagingState, memory: &mut Memory, access: Access) -> Result<Translation, WalkError> {
    walk(state, LIMITS, LINEAR, access, memory)
}

#[test]
fn without_paging_an_address_is_its_low_half() {
    let state = PagingState::default();
    let found = walk(
        &state,
        LIMITS,
        0x9_1234_5678,
        Access::Write,
        &mut Memory::default(),
    )
    .unwrap();
    assert_eq!((found.address, found.tables), (GuestPhys(0x1234_5678), 0));
}

#[test]
fn four_levels_lead_to_a_page() {
    let mut memory = four_levels(usual());
    let found = go(&long_mode(), &mut memory, Access::Read).unwrap();
    assert_eq!(found.address, GuestPhys(0x7_6543_29ab));
    assert_eq!((found.shift, found.tables), (12, 4));
}

#[test]
fn large_pages_of_both_sizes_keep_the_rest_of_the_address() {
    let mut entries = usual();
    entries[2] = 0x7_6540_0000 | P | RW | PS | 1 << 12;
    let found = go(&long_mode(), &mut four_levels(entries), Access::Read).unwrap();
    assert_eq!(found.address.0, 0x7_6540_0000 | LINEAR & 0x1f_ffff);
    assert_eq!((found.shift, found.tables), (21, 3));
    entries[1] = 0x7_4000_0000 | P | RW | PS;
    let found = go(&long_mode(), &mut four_levels(entries), Access::Read).unwrap();
    assert_eq!(found.address.0, 0x7_4000_0000 | LINEAR & 0x3fff_ffff);
    assert_eq!((found.shift, found.tables), (30, 2));
}

#[test]
fn a_gigabyte_page_that_was_not_offered_is_a_reserved_bit() {
    let mut entries = usual();
    entries[1] = 0x7_4000_0000 | P | RW | PS;
    let limits = PagingLimits {
        gigabyte_pages: false,
        ..LIMITS
    };
    let result = walk(
        &long_mode(),
        limits,
        LINEAR,
        Access::Read,
        &mut four_levels(entries),
    );
    assert_eq!(fault_code(result), PRESENT | RESERVED);
}

#[test]
fn an_address_that_is_not_canonical_reads_no_table() {
    let found = walk(
        &long_mode(),
        LIMITS,
        1 << 47,
        Access::Read,
        &mut Memory::default(),
    );
    assert_eq!(found, Err(WalkError::NotCanonical));
}

#[test]
fn five_levels_are_refused() {
    let mut state = long_mode();
    state.cr4 |= LA57;
    let found = go(&state, &mut Memory::default(), Access::Read);
    assert_eq!(found, Err(WalkError::Unsupported));
}

#[test]
fn a_hole_tells_the_access_but_not_presence() {
    for level in 0..4 {
        let mut entries = usual();
        entries[level] = 0;
        let mut memory = four_levels(entries);
        let mut state = long_mode();
        assert_eq!(fault_code(go(&state, &mut memory, Access::Read)), 0);
        assert_eq!(fault_code(go(&state, &mut memory, Access::Write)), WRITE);
        assert_eq!(fault_code(go(&state, &mut memory, Access::Fetch)), FETCH);
        state.cpl = 3;
        state.efer &= !NXE;
        assert_eq!(fault_code(go(&state, &mut memory, Access::Fetch)), USER);
        state.cr4 |= SMEP;
        let code = fault_code(go(&state, &mut memory, Access::Fetch));
        assert_eq!(code, USER | FETCH);
    }
}

#[test]
fn bits_beyond_the_cpus_addresses_are_reserved() {
    for level in 0..4 {
        for bit in [40, 51] {
            let mut entries = usual();
            entries[level] |= 1 << bit;
            let code = fault_code(go(&long_mode(), &mut four_levels(entries), Access::Write));
            assert_eq!(code, PRESENT | RESERVED | WRITE);
        }
        let mut entries = usual();
        entries[level] |= 0x7ff << 52;
        assert!(go(&long_mode(), &mut four_levels(entries), Access::Read).is_ok());
    }
}

#[test]
fn no_execute_is_reserved_until_it_is_enabled() {
    let mut entries = usual();
    entries[1] |= NX;
    let mut state = long_mode();
    let code = fault_code(go(&state, &mut four_levels(entries), Access::Fetch));
    assert_eq!(code, PRESENT | FETCH);
    assert!(go(&state, &mut four_levels(entries), Access::Read).is_ok());
    state.efer &= !NXE;
    let code = fault_code(go(&state, &mut four_levels(entries), Access::Read));
    assert_eq!(code, PRESENT | RESERVED);
}

#[test]
fn a_large_page_that_is_not_aligned_has_reserved_bits() {
    for (level, bit) in [(1, 13), (1, 29), (2, 13), (2, 20)] {
        let mut entries = usual();
        entries[level] = P | RW | US | PS | 1 << bit;
        let code = fault_code(go(&long_mode(), &mut four_levels(entries), Access::Read));
        assert_eq!(code, PRESENT | RESERVED);
    }
    let mut entries = usual();
    entries[0] |= PS;
    let code = fault_code(go(&long_mode(), &mut four_levels(entries), Access::Read));
    assert_eq!(code, PRESENT | RESERVED);
}

#[test]
fn a_table_outside_memory_is_no_fault_of_the_guests_pages() {
    let mut entries = usual();
    entries[2] = 0x5000_0000 | P | RW;
    let found = go(&long_mode(), &mut four_levels(entries), Access::Read);
    let at = 0x5000_0000 + (LINEAR >> 12 & 0x1ff) * 8;
    assert_eq!(found, Err(WalkError::Memory(GuestPhys(at))));
}

#[test]
fn only_what_is_allowed_marks_the_entries() {
    let clean = usual().map(|entry| entry & !(A | D));
    let mut memory = four_levels(clean);
    go(&long_mode(), &mut memory, Access::Read).unwrap();
    let seen = |memory: &Memory| {
        [39, 30, 21, 12]
            .iter()
            .enumerate()
            .map(|(i, &shift)| memory.get(entry_at(i, shift)) & (A | D))
            .collect::<Vec<_>>()
    };
    assert_eq!(seen(&memory), [A, A, A, A]);
    go(&long_mode(), &mut memory, Access::Write).unwrap();
    assert_eq!(seen(&memory), [A, A, A, A | D]);

    let mut entries = clean;
    entries[1] &= !RW;
    let mut memory = four_levels(entries);
    assert_eq!(
        fault_code(go(&long_mode(), &mut memory, Access::Write)),
        PRESENT | WRITE
    );
    assert_eq!(seen(&memory), [0; 4]);
}

#[test]
fn an_entry_that_changes_meanwhile_is_read_again() {
    let mut memory = four_levels(usual().map(|entry| entry & !A));
    memory.races = 3;
    assert!(go(&long_mode(), &mut memory, Access::Read).is_ok());
    let mut memory = four_levels(usual().map(|entry| entry & !A));
    memory.races = u32::MAX;
    let found = go(&long_mode(), &mut memory, Access::Read);
    assert_eq!(found, Err(WalkError::Unstable));
    memory.read_only = true;
    let found = go(&long_mode(), &mut memory, Access::Read);
    assert_eq!(found, Err(WalkError::Memory(GuestPhys(entry_at(0, 39)))));
}

#[test]
fn a_root_that_maps_itself_is_walked_as_any_table() {
    let mut memory = Memory::default();
    memory.set(0x1000 + 511 * 8, 0x1000 | P | RW);
    let found = walk(
        &long_mode(),
        LIMITS,
        u64::MAX - 7,
        Access::Write,
        &mut memory,
    )
    .unwrap();
    assert_eq!(found.address, GuestPhys(0x1ff8));
    assert_eq!(memory.get(0x1ff8), 0x1000 | P | RW | A | D);
}

fn two_levels() -> PagingState {
    PagingState {
        cr0: PG_WP,
        cr3: 0x1000,
        cr4: PSE,
        ..PagingState::default()
    }
}

#[test]
fn entries_of_32_bits_are_found_in_both_halves_of_a_word() {
    for linear in [0x0040_3123u64, 0x0080_2fff] {
        let mut memory = Memory::default();
        memory.set32(0x1000 + (linear >> 22) * 4, 0x2003);
        memory.set32(0x2000 + (linear >> 12 & 0x3ff) * 4, 0x8765_4003);
        let found = walk(&two_levels(), LIMITS, linear, Access::Write, &mut memory).unwrap();
        assert_eq!(found.address.0, 0x8765_4000 | linear & 0xfff);
        let mut read = |at: u64| memory.load(0, GuestPhys(at & !7)).unwrap() >> (at % 8 * 8);
        let leaf = read(0x2000 + (linear >> 12 & 0x3ff) * 4) as u32;
        assert_eq!(leaf, 0x8765_4063, "accessed and dirty, in this half alone");
        let pointer = read(0x1000 + (linear >> 22) * 4) as u32;
        assert_eq!(pointer, 0x2023);
    }
}

#[test]
fn a_4_mib_page_reaches_above_4_gib() {
    let linear = 0xc012_3456u64;
    let mut memory = Memory::default();
    let entry = 0x1240_0000 | 0x9a << 13 | 0x83;
    memory.set32(0x1000 + (linear >> 22) * 4, entry);
    let found = walk(&two_levels(), LIMITS, linear, Access::Read, &mut memory).unwrap();
    assert_eq!(found.address, GuestPhys(0x9a_1252_3456));
    assert_eq!(found.shift, 22);
    let narrow = PagingLimits {
        physical_bits: 36,
        ..LIMITS
    };
    let refused = walk(&two_levels(), narrow, linear, Access::Read, &mut memory);
    assert_eq!(
        refused,
        Err(WalkError::Page(PageFault {
            address: linear,
            code: PRESENT | RESERVED
        }))
    );
    // Without PSE the bit is ignored and the entry points to a table, here outside memory.
    let mut state = two_levels();
    state.cr4 = 0;
    let table = walk(&state, LIMITS, linear, Access::Read, &mut memory);
    assert!(matches!(table, Err(WalkError::Memory(_))));
}

#[test]
fn pae_has_four_pointers_without_rights() {
    let state = PagingState {
        cr3: 0x1020,
        cr4: PAE,
        efer: NXE,
        cpl: 3,
        ..long_mode()
    };
    let linear = 0xc060_1234u64;
    let mut memory = Memory::default();
    memory.set(0x1020 + 3 * 8, 0x2000 | P);
    memory.set(0x2000 + 3 * 8, 0x3000 | P | RW | US);
    memory.set(0x3000 + 8, 0x12_3456_7000 | P | RW | US);
    let found = walk(&state, LIMITS, linear, Access::Write, &mut memory).unwrap();
    assert_eq!((found.address.0, found.tables), (0x12_3456_7234, 3));
    assert_eq!(memory.get(0x1038), 0x2000 | P, "no accessed bit there");
    for bit in [1, 2, 6, 8, 40, 63] {
        memory.set(0x1038, 0x2000 | P | 1 << bit);
        let result = walk(&state, LIMITS, linear, Access::Read, &mut memory);
        let Err(WalkError::Page(fault)) = result else {
            panic!("{result:?}")
        };
        assert_eq!(fault.code, PRESENT | RESERVED | USER);
    }
    // The accessed bit, which an emulator sets.
    memory.set(0x1038, 0x2000 | P | 1 << 5);
    memory.set(0x2018, 0x1220_0000 | P | RW | US | PS);
    let found = walk(&state, LIMITS, linear, Access::Read, &mut memory).unwrap();
    assert_eq!((found.address.0, found.shift), (0x1220_1234, 21));
    // Unlike in long mode, nothing above the address is ignored.
    memory.set(0x2018, 0x1220_0000 | P | RW | US | PS | 1 << 52);
    assert!(walk(&state, LIMITS, linear, Access::Read, &mut memory).is_err());
}

/// SDM 4.6.1 in its own order, for pages that are present.
fn sdm_allows(state: &PagingState, access: Access, all: u64, some_nx: bool) -> bool {
    let (user_page, writable) = (all & US != 0, all & RW != 0);
    if state.cpl < 3 {
        let data_ok = !user_page || state.cr4 & SMAP == 0 || state.ac;
        match access {
            Access::Read => data_ok,
            Access::Write if state.cr0 & 1 << 16 == 0 => data_ok,
            Access::Write => data_ok && writable,
            Access::Fetch if user_page => state.cr4 & SMEP == 0 && !some_nx,
            Access::Fetch => !some_nx,
        }
    } else {
        match access {
            Access::Read => user_page,
            Access::Write => user_page && writable,
            Access::Fetch => user_page && !some_nx,
        }
    }
}

fn an_access() -> impl Strategy<Value = Access> {
    prop_oneof![Just(Access::Read), Just(Access::Write), Just(Access::Fetch)]
}

proptest! {
    #[test]
    fn rights_are_those_of_the_manual(
        bits in proptest::array::uniform4((any::<bool>(), any::<bool>(), any::<bool>())),
        (wp, smep, smap, ac, user) in any::<(bool, bool, bool, bool, bool)>(),
        access in an_access(),
        levels in 2usize..=4,
    ) {
        let mut state = long_mode();
        if !wp { state.cr0 &= !(1 << 16); }
        if smep { state.cr4 |= SMEP; }
        if smap { state.cr4 |= SMAP; }
        state.ac = ac;
        state.cpl = if user { 3 } else { 0 };
        let mut entries = [0x2000, 0x3000, 0x4000, 0x5000].map(|address| address | P);
        if levels < 4 { entries[levels - 1] = 0x4000_0000 | P | PS; }
        let (mut all, mut some_nx) = (RW | US, false);
        for (entry, (rw, us, nx)) in entries.iter_mut().zip(bits).take(levels) {
            *entry |= if rw { RW } else { 0 } | if us { US } else { 0 } | if nx { NX } else { 0 };
            all &= *entry;
            some_nx |= nx;
        }
        let result = go(&state, &mut four_levels(entries), access);
        if sdm_allows(&state, access, all, some_nx) {
            prop_assert_eq!(result.unwrap().tables, levels);
        } else {
            let wanted = PRESENT
                | if user { USER } else { 0 }
                | match access { Access::Read => 0, Access::Write => WRITE, Access::Fetch => FETCH };
            prop_assert_eq!(fault_code(result), wanted);
        }
    }

    #[test]
    fn whatever_the_tables_hold_a_walk_ends_within_them(
        words in proptest::collection::vec(any::<u64>(), 64),
        (cr0, cr3, cr4, efer, linear) in any::<(u64, u64, u64, u64, u64)>(),
        (cpl, ac, physical_bits, gigabyte_pages) in (0u8..4, any::<bool>(), any::<u8>(), any::<bool>()),
        access in an_access(),
    ) {
        /// Memory that is the same few words everywhere, mostly present.
        struct Noise(Vec<u64>, usize);
        impl TableWords for Noise {
            fn load(&mut self, depth: usize, at: GuestPhys) -> Option<u64> {
                assert!(depth < MOST_TABLES && at.0.is_multiple_of(8));
                self.1 += 1;
                self.0.get((at.0 >> 3) as usize % 80).map(|word| word & 0x0000_0fff_ffff_ffff | P)
            }
            fn replace(&mut self, _: usize, at: GuestPhys, _: u64, _: u64) -> Option<bool> {
                (!at.0.is_multiple_of(3)).then_some(!at.0.is_multiple_of(5))
            }
        }
        let state = PagingState { cr0, cr3, cr4, efer, cpl, ac };
        let limits = PagingLimits { physical_bits, gigabyte_pages };
        let mut noise = Noise(vec![], 0);
        noise.0 = words;
        let found = walk(&state, limits, linear, access, &mut noise);
        prop_assert!(noise.1 <= MOST_TABLES * TRIES as usize);
        if let Ok(found) = found {
            let low = (1u64 << found.shift) - 1;
            prop_assert_eq!(found.address.0 & low & 0xffff_ffff, linear & low & 0xffff_ffff);
        }
    }
}
