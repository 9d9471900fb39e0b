//! Entries for granted frames. The grant code's own hold is taken by hand here.

use xenolith_abi::grant_table::MapFlags;
use xenolith_arch_x86_64::pv::memory::{Level, entry::*};
use xenolith_core::{
    Errno,
    grant::{PvMapping, PvPlace},
    guest::Caller,
    memory::{FrameType, Place},
};
use xenolith_hal::{GuestVirt, HostPhys, Mfn};

use super::{audit::Counts, rig::*};

fn mapping(place: PvPlace, mfn: Mfn, flags: MapFlags) -> PvMapping {
    PvMapping { place, mfn, flags }
}

/// What the grant code holds of a frame that is granted for writing.
const HELD: Counts = Counts {
    references: 1,
    uses: 1,
};

struct Mapper<'a> {
    rig: &'a Rig,
    l1: Mfn,
    granted: Mfn,
}

impl<'a> Mapper<'a> {
    fn new(rig: &'a Rig) -> Self {
        let [l4, _, _, l1, _] = rig.tree(1, RW);
        rig.new_root(1, l4).unwrap();
        let granted = rig.frame(2);
        rig.record(granted)
            .get_mapping(rig.domains[2].id(), true)
            .unwrap();
        Self { rig, l1, granted }
    }

    fn map(&self, mapping: &PvMapping) -> bool {
        let vcpu = self.rig.vcpu(1, 0);
        let caller = Caller {
            hv: &self.rig.hv,
            vcpu: &vcpu,
        };
        self.rig.tables().map_granted(caller, mapping).is_ok()
    }

    fn unmap(&self, mapping: &PvMapping, new: Option<u64>) -> bool {
        let vcpu = self.rig.vcpu(1, 0);
        let caller = Caller {
            hv: &self.rig.hv,
            vcpu: &vcpu,
        };
        let new = new.map(GuestVirt);
        self.rig
            .tables()
            .unmap_granted(caller, mapping, new)
            .is_ok()
    }

    fn audit(&self) {
        self.rig.audit(&[(self.granted, HELD)]);
    }

    fn entry(&self, slot: u64) -> PvPlace {
        PvPlace::Entry(HostPhys(self.l1.base().0 + slot * 8))
    }
}

#[test]
fn a_granted_frame_is_mapped_by_entry_and_by_address_and_taken_away_again() {
    let rig = Rig::new();
    let mapper = Mapper::new(&rig);
    for place in [mapper.entry(4), PvPlace::Address(GuestVirt(0x4000))] {
        for flags in [MapFlags::HOST_MAP, MapFlags::HOST_MAP | MapFlags::READONLY] {
            let map = mapping(place, mapper.granted, flags);
            assert!(mapper.map(&map));
            assert_eq!(frame(rig.get(mapper.l1, 4)), mapper.granted);
            let writable = rig.get(mapper.l1, 4) & WRITABLE != 0;
            assert_eq!(writable, map.is_writable());
            mapper.audit();
            assert!(mapper.unmap(&map, None));
            assert_eq!(rig.get(mapper.l1, 4), 0);
            assert!(!mapper.unmap(&map, None));
            mapper.audit();
        }
    }
}

#[test]
fn overwriting_the_entry_of_a_granted_frame_corrupts_no_count() {
    let rig = Rig::new();
    let mapper = Mapper::new(&rig);
    let map = mapping(mapper.entry(4), mapper.granted, MapFlags::HOST_MAP);
    assert!(mapper.map(&map));
    rig.update(1, mapper.l1, 4, 0).unwrap();
    mapper.audit();
    assert!(!mapper.unmap(&map, None), "the grant stays mapped");
    assert!(mapper.map(&map));
    rig.update(1, mapper.l1, 4, to(mapper.granted, RO)).unwrap();
    mapper.audit();
    assert!(!mapper.unmap(&map, None), "it is another entry by now");
    let again = rig.update(1, mapper.l1, 4, to(mapper.granted, RW));
    assert_eq!(again, Err(Errno::EBUSY), "it is not the guest's frame");
    mapper.audit();
}

#[test]
fn no_page_table_becomes_writable_by_a_grant() {
    let rig = Rig::new();
    let mapper = Mapper::new(&rig);
    let table = rig.frame(2);
    rig.pin(2, Level::L1, table).unwrap();
    let map = mapping(mapper.entry(4), table, MapFlags::HOST_MAP);
    assert!(!mapper.map(&map));
    let read = mapping(
        mapper.entry(4),
        table,
        MapFlags::HOST_MAP | MapFlags::READONLY,
    );
    assert!(mapper.map(&read));
    assert_eq!(rig.state(table).frame_type(), FrameType::L1);
    mapper.audit();
}

#[test]
fn entries_that_are_none_of_the_callers_l1_tables_are_refused() {
    let rig = Rig::new();
    let mapper = Mapper::new(&rig);
    let foreign = rig.frame(2);
    rig.pin(2, Level::L1, foreign).unwrap();
    let [l4, ..] = rig.tree(1, RO);
    rig.pin(1, Level::L4, l4).unwrap();
    let raw = rig.frame(1);
    for at in [foreign.base().0, l4.base().0, raw.base().0, DEVICE.base().0] {
        let place = PvPlace::Entry(HostPhys(at));
        assert!(!mapper.map(&mapping(place, mapper.granted, MapFlags::HOST_MAP)));
    }
    for place in [
        PvPlace::Entry(HostPhys(mapper.l1.base().0 + 4)),
        PvPlace::Address(GuestVirt(1 << 40)),
        PvPlace::Address(GuestVirt(0xffff_8000_0000_0000)),
    ] {
        assert!(!mapper.map(&mapping(place, mapper.granted, MapFlags::HOST_MAP)));
    }
    mapper.audit();
}

#[test]
fn unmapping_may_put_another_mapping_in_the_place() {
    let rig = Rig::new();
    let mapper = Mapper::new(&rig);
    let own = rig.frame(1);
    rig.update(1, mapper.l1, 9, to(own, RW)).unwrap();
    let map = mapping(
        PvPlace::Address(GuestVirt(0x4000)),
        mapper.granted,
        MapFlags::HOST_MAP,
    );
    assert!(mapper.map(&map));
    assert!(mapper.unmap(&map, Some(0x9000)));
    assert_eq!(frame(rig.get(mapper.l1, 4)), own);
    assert_eq!(rig.get(mapper.l1, 9), 0);
    mapper.audit();
    // Also onto itself: nothing is left, and nothing counted.
    assert!(mapper.map(&map));
    assert!(!mapper.unmap(&map, Some(0x4000)));
    assert_eq!(rig.get(mapper.l1, 4), 0);
    mapper.audit();
}

#[test]
fn a_tlb_keeps_no_granted_frame_after_the_batch_that_took_it_away() {
    let rig = Rig::new();
    let mapper = Mapper::new(&rig);
    let map = mapping(mapper.entry(4), mapper.granted, MapFlags::HOST_MAP);
    assert!(mapper.map(&map));
    rig.machine.sim.tlbs().fill(
        xenolith_hal::CpuId(2),
        rig.domains[1].id(),
        mapper.granted,
        true,
    );
    assert!(mapper.unmap(&map, None));
    let vcpu = rig.vcpu(1, 0);
    let caller = Caller {
        hv: &rig.hv,
        vcpu: &vcpu,
    };
    rig.tables().flush_granted(caller);
    assert!(!rig.machine.sim.tlbs().may_write(mapper.granted));
}

#[test]
fn writing_to_a_translated_domains_frame_is_not_counted_and_marked_in_the_entry() {
    let rig = Rig::with_translated();
    let mapper = Mapper::new(&rig);
    let frame_of_3 = rig.hv.allocate_for(&rig.domains[3], 0, Place::ANY).unwrap();
    let hold = rig.hv.get_frame(frame_of_3, rig.domains[3].id()).unwrap();
    let map = mapping(mapper.entry(4), frame_of_3, MapFlags::HOST_MAP);
    assert!(mapper.map(&map));
    assert_eq!(
        rig.get(mapper.l1, 4) & (WRITABLE | UNTYPED),
        WRITABLE | UNTYPED
    );
    assert_eq!(rig.state(frame_of_3).type_count(), 0);
    // The guest may take the right away and change flags as it read them, and loses nothing of the count.
    let read = rig.get(mapper.l1, 4);
    rig.update(1, mapper.l1, 4, read & !WRITABLE).unwrap();
    rig.update(1, mapper.l1, 4, read & !WRITABLE | DIRTY)
        .unwrap();
    let unmarked = read & !UNTYPED;
    assert_eq!(rig.update(1, mapper.l1, 4, unmarked), Err(Errno::EBUSY));
    rig.update(1, mapper.l1, 4, 0).unwrap();
    assert_eq!(rig.state(frame_of_3).count(), 2);
    drop(hold);
    // The control domain maps it by right.
    let l1 = rig.frame(0);
    rig.pin(0, Level::L1, l1).unwrap();
    rig.updates(0, &[(l1.base().0, to(frame_of_3, RW))], 3)
        .unwrap();
    assert_eq!(rig.get(l1, 0) & UNTYPED, UNTYPED);
    assert_eq!(rig.state(frame_of_3).type_count(), 0);
    rig.update(0, l1, 0, 0).unwrap();
    assert_eq!(rig.state(frame_of_3).count(), 1);
}
