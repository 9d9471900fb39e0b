//! The allocator against a plain model of which frames are free.

use alloc::{boxed::Box, collections::BTreeMap, vec::Vec};

use xenolith_hal::{Mfn, Order};

use super::*;

pub(crate) fn bank(first: u64, frames: u64, node: u8) -> RamBank {
    let records: Vec<_> = (0..frames).map(|_| FrameRecord::new()).collect();
    RamBank {
        first: Mfn(first),
        records: Box::leak(records.into_boxed_slice()),
        node: Node(node),
    }
}

/// A small generator of numbers that repeat with the seed.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

/// Walks the free blocks as the records tell them and checks the allocator's invariant; gives every free frame.
fn free_frames_by_records(memory: &Memory) -> u64 {
    let mut free = 0;
    for bank in memory.table().banks() {
        let mut at = bank.first;
        while at < bank.end() {
            let Class::Free(order) = memory.record(at).unwrap().state().class() else {
                at = at.plus(1);
                continue;
            };
            assert!(at.0.is_multiple_of(1 << order), "{at:?} order {order}");
            let end = at.plus(1 << order);
            assert!(end <= bank.end());
            for inside in (at.0 + 1..end.0).map(Mfn) {
                assert_eq!(
                    memory.record(inside).unwrap().state().class(),
                    Class::Reserved
                );
            }
            let buddy = Mfn(at.0 ^ 1 << order);
            let same = (bank.first..bank.end()).contains(&buddy)
                && memory.record(buddy).unwrap().state().class() == Class::Free(order);
            assert!(!same || order == MAX_ORDER, "unmerged buddies at {at:?}");
            free += 1 << order;
            at = end;
        }
    }
    assert_eq!(free, memory.free_frames());
    free
}

#[test]
fn nothing_is_free_before_it_is_released() {
    let memory = Memory::new(&[bank(0x100, 64, 0)]).unwrap();
    assert_eq!(memory.free_frames(), 0);
    assert_eq!(memory.allocate(0, Place::ANY), None);
    memory.release_at_boot(Mfn(0), 0x1000);
    assert_eq!(memory.free_frames(), 64);
}

#[test]
fn release_makes_the_largest_aligned_blocks() {
    let memory = Memory::new(&[bank(0x103, 0x200, 0)]).unwrap();
    memory.release_at_boot(Mfn(0x103), 0x100);
    memory.release_at_boot(Mfn(0x203), 0x100);
    let class = |mfn| memory.record(Mfn(mfn)).unwrap().state().class();
    assert_eq!(class(0x103), Class::Free(0));
    assert_eq!(class(0x104), Class::Free(2));
    assert_eq!(class(0x180), Class::Free(7));
    assert_eq!(
        class(0x200),
        Class::Free(8),
        "merged across the two releases"
    );
    assert_eq!(free_frames_by_records(&memory), 0x200);
}

#[test]
fn memory_above_4_gib_goes_first_and_the_low_zone_serves_narrow_devices() {
    let memory = Memory::new(&[bank(0xf_fff0, 32, 0)]).unwrap();
    memory.release_at_boot(Mfn(0xf_fff0), 32);
    assert_eq!(free_frames_by_records(&memory), 32);
    let any = memory.allocate(4, Place::ANY).unwrap();
    assert_eq!(any, Mfn(0x10_0000));
    let low = memory.allocate(4, Place::BELOW_4G).unwrap();
    assert_eq!(low, Mfn(0xf_fff0));
    assert_eq!(memory.allocate(0, Place::ANY), None);
    memory.free(any, 4);
    assert_eq!(memory.allocate(0, Place::BELOW_4G), None);
    let wide = Place {
        bits: Some(40),
        ..Place::ANY
    };
    assert!(memory.allocate(0, wide).is_some());
}

#[test]
fn the_preferred_node_is_asked_first_and_others_help_out() {
    let memory = Memory::new(&[bank(0x100, 16, 0), bank(0x110, 16, 1)]).unwrap();
    memory.release_at_boot(Mfn(0x100), 32);
    assert_eq!(free_frames_by_records(&memory), 32);
    let near = Place {
        node: Some(Node(1)),
        bits: None,
    };
    assert_eq!(memory.allocate(4, near), Some(Mfn(0x110)));
    assert_eq!(
        memory.allocate(4, near),
        Some(Mfn(0x100)),
        "banks of two nodes are not merged"
    );
}

#[test]
fn an_exact_range_is_taken_whole_or_not_at_all() {
    let memory = Memory::new(&[bank(0x100, 0x100, 0)]).unwrap();
    memory.release_at_boot(Mfn(0x100), 0x100);
    memory.allocate_at(Mfn(0x133), 5).unwrap();
    assert_eq!(free_frames_by_records(&memory), 0x100 - 5);
    assert_eq!(memory.allocate_at(Mfn(0x130), 8), Err(NotFree));
    assert_eq!(memory.allocate_at(Mfn(0x1f8), 16), Err(NotFree));
    assert_eq!(memory.allocate_at(Mfn(0x133), 1), Err(NotFree));
    assert_eq!(free_frames_by_records(&memory), 0x100 - 5);
    memory.free_each(Mfn(0x133), 5);
    assert_eq!(
        memory.record(Mfn(0x100)).unwrap().state().class(),
        Class::Free(8)
    );
}

#[test]
fn an_exact_range_across_zones_has_no_effect_when_its_upper_part_is_taken() {
    let memory = Memory::new(&[bank(0xf_ff00, 0x200, 0)]).unwrap();
    memory.release_at_boot(Mfn(0xf_ff00), 0x200);
    memory.allocate_at(Mfn(0x10_0010), 1).unwrap();
    assert_eq!(memory.allocate_at(Mfn(0xf_fff0), 0x40), Err(NotFree));
    assert_eq!(free_frames_by_records(&memory), 0x1ff);
    assert_eq!(memory.allocate_at(Mfn(0xf_fff0), 0x20), Ok(()));
    assert_eq!(free_frames_by_records(&memory), 0x1df);
}

#[test]
fn the_largest_block_is_found_wherever_it_is() {
    let memory = Memory::new(&[bank(0x8_0000, 0x400, 0), bank(0x10_0000, 0x80, 0)]).unwrap();
    memory.release_at_boot(Mfn(0), 1 << 30);
    assert_eq!(
        memory.allocate_largest(0x7ff, Place::ANY),
        Some((Mfn(0x8_0000), 10))
    );
    assert_eq!(
        memory.allocate_largest(0x7f, Place::ANY),
        Some((Mfn(0x10_0000), 6))
    );
    assert_eq!(
        memory.allocate_largest(u64::MAX, Place::ANY),
        Some((Mfn(0x10_0040), 6))
    );
    assert_eq!(memory.allocate_largest(1, Place::ANY), None);
    assert_eq!(memory.allocate_largest(0, Place::ANY), None);
}

#[test]
#[should_panic(expected = "not a block of order")]
fn a_double_free_is_caught() {
    let memory = Memory::new(&[bank(0x100, 16, 0)]).unwrap();
    memory.release_at_boot(Mfn(0x100), 16);
    let mfn = memory.allocate(1, Place::ANY).unwrap();
    memory.free(mfn, 1);
    memory.free(mfn, 1);
}

#[test]
fn random_use_never_hands_out_a_frame_twice_and_loses_none() {
    for seed in 1..=20 {
        let mut random = Random(seed);
        let banks = [
            bank(0x1003, 700, 0),
            bank(0x2000, 512, 1),
            bank(0xf_ff80, 300, 0),
        ];
        let total: u64 = banks.iter().map(|b| b.records.len() as u64).sum();
        let memory = Memory::new(&banks).unwrap();
        memory.release_at_boot(Mfn(0), 1 << 24);
        let mut held: BTreeMap<Mfn, Order> = BTreeMap::new();
        let mut in_use = 0;
        for step in 0..2000 {
            match random.below(5) {
                0 | 1 => {
                    let order = random.below(6) as Order;
                    let bits = [None, Some(32), Some(36)][random.below(3) as usize];
                    let place = Place {
                        node: Some(Node(random.below(3) as u8)),
                        bits,
                    };
                    if let Some(mfn) = memory.allocate(order, place) {
                        assert!(mfn.0.is_multiple_of(1 << order));
                        assert!(bits != Some(32) || mfn.0 + (1 << order) <= 1 << 20);
                        add(&mut held, mfn, order);
                        in_use += 1 << order;
                    }
                }
                2 => {
                    let bank = banks[random.below(3) as usize];
                    let first = bank.first.plus(random.below(bank.records.len() as u64));
                    let count = 1 + random.below(20);
                    if memory.allocate_at(first, count).is_ok() {
                        for n in 0..count {
                            add(&mut held, first.plus(n), 0);
                        }
                        in_use += count;
                    }
                }
                _ => {
                    let pick = held
                        .keys()
                        .nth(random.below(1 + held.len() as u64) as usize);
                    if let Some(mfn) = pick.copied() {
                        let order = held.remove(&mfn).unwrap();
                        memory.free(mfn, order);
                        in_use -= 1 << order;
                    }
                }
            }
            if step % 100 == 0 {
                assert_eq!(
                    free_frames_by_records(&memory),
                    total - in_use,
                    "seed {seed}"
                );
            }
        }
        for (mfn, order) in held {
            memory.free(mfn, order);
        }
        assert_eq!(free_frames_by_records(&memory), total, "seed {seed}");
    }
}

fn add(held: &mut BTreeMap<Mfn, Order>, mfn: Mfn, order: Order) {
    if let Some((before, o)) = held.range(..=mfn).next_back() {
        assert!(before.0 + (1 << o) <= mfn.0, "{mfn:?} handed out twice");
    }
    if let Some((after, _)) = held.range(mfn..).next() {
        assert!(mfn.0 + (1 << order) <= after.0, "{mfn:?} handed out twice");
    }
    held.insert(mfn, order);
}
