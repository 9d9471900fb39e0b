use super::{super::Charge, *};

const ME: DomId = DomId(1);

fn record() -> FrameRecord {
    let record = FrameRecord::new();
    record.set_owned(ME, Charge::Memory);
    record
}

#[test]
fn a_frame_is_writable_or_a_table_and_never_both() {
    let record = record();
    assert_eq!(
        record.claim(ME, FrameType::L1),
        Ok(Claim::Fresh(FrameType::None))
    );
    assert_eq!(record.claim(ME, FrameType::L1), Err(Refused::Locked));
    record.begin_table();
    record.set_valid();
    assert_eq!(record.claim(ME, FrameType::L1), Ok(Claim::Ready));
    assert_eq!(record.get_mapping(ME, true), Err(Refused::Busy));
    assert_eq!(record.get_mapping(ME, false), Ok(()), "reading is fine");
    assert_eq!(record.claim(ME, FrameType::L2), Err(Refused::Busy));
    assert_eq!(record.put_mapping(false), Dropped::Kept);
    assert_eq!(record.release(), Ended::Kept);
    assert_eq!(record.release(), Ended::Whole);
    assert_eq!(record.get_mapping(ME, true), Err(Refused::Busy), "not yet");
    assert_eq!(record.end_type(7), Dropped::Kept);
    assert_eq!(record.get_mapping(ME, true), Err(Refused::Stale));
    assert_eq!(record.last_unmapped(), Some(7));
    assert_eq!(record.claim_stale(), Ok(()));
    assert_eq!(record.get_mapping(ME, true), Err(Refused::Locked));
    record.unlock_writable();
    assert_eq!(record.get_mapping(ME, true), Ok(()));
    assert_eq!(record.claim(ME, FrameType::L1), Err(Refused::Busy));
    assert_eq!(record.put_mapping(true), Dropped::Kept);
    record.put_type();
    assert_eq!(
        (record.state().count(), record.state().type_count()),
        (1, 0)
    );
}

#[test]
fn another_domain_gets_no_mapping_and_no_table() {
    let record = record();
    for other in [DomId(0), DomId(2), DomId(0x8001), DomId(u16::MAX)] {
        for writable in [false, true] {
            assert_eq!(record.get_mapping(other, writable), Err(Refused::NotOwned));
        }
        assert_eq!(record.claim(other, FrameType::L1), Err(Refused::NotOwned));
        assert_eq!(record.get_table(other), None);
    }
    assert_eq!(record.state().count(), 1);
}

#[test]
fn a_table_left_half_way_is_taken_up_by_who_comes_next() {
    let record = record();
    record.claim(ME, FrameType::L3).unwrap();
    record.begin_table();
    record.set_partial();
    assert_eq!(record.get_table(ME), None, "not to be used yet");
    assert_eq!(record.claim(ME, FrameType::L3), Ok(Claim::Partial));
    assert_eq!(record.reclaim(), Reclaim::Locked);
    assert!(!record.give_up(), "the first user still holds it");
    assert_eq!(record.reclaim(), Reclaim::Partial);
    record.set_valid();
    assert_eq!(record.reclaim(), Reclaim::Ready);
    assert_eq!(record.get_table(ME), Some(FrameType::L3));
    assert_eq!(record.release(), Ended::Kept);
    assert_eq!(record.release(), Ended::Whole);
    record.set_partial();
    assert_eq!(record.claim(ME, FrameType::L3), Ok(Claim::Partial));
    record.set_partial();
    assert_eq!(record.release(), Ended::Kept);
    assert_eq!(record.release(), Ended::Partial);
    assert_eq!(record.end_type(1), Dropped::Kept);
    assert_eq!(
        (record.state().count(), record.state().type_count()),
        (1, 0)
    );
}

#[test]
fn full_counts_refuse_and_do_not_wrap() {
    let record = record();
    record.get_mapping(ME, true).unwrap();
    let state = record.state().0;
    record.set(FrameState(TYPE_COUNT.set(state, TYPE_COUNT.max())));
    assert_eq!(record.get_mapping(ME, true), Err(Refused::Busy));
    assert_eq!(record.get_mapping(ME, false), Ok(()));
    record.set(FrameState(COUNT.set(state, COUNT.max())));
    assert_eq!(record.get_mapping(ME, false), Err(Refused::Busy));
    record.set(FrameState(COUNT.set(state, COUNT.max() - 1)));
    assert_eq!(record.get_mapping(ME, true), Ok(()));
    assert_eq!(record.put_mapping(true), Dropped::Kept);
    assert_eq!(record.put_mapping(true), Dropped::Kept);
    assert_eq!(record.put_mapping(true), Dropped::NotHeld);
}

#[test]
fn a_frame_that_its_owner_gave_up_goes_with_its_last_use_as_a_table() {
    let record = record();
    record.claim(ME, FrameType::L1).unwrap();
    record.begin_table();
    record.set_valid();
    assert_eq!(record.drop_allocation(ME), Dropped::Kept);
    assert_eq!(record.release(), Ended::Whole);
    let last = Dropped::Last {
        owner: ME,
        charge: Charge::Memory,
    };
    assert_eq!(record.end_type(3), last);
}

#[test]
fn memory_of_the_hypervisor_never_becomes_a_table() {
    let record = FrameRecord::new();
    record.set_owned(ME, Charge::Hypervisor);
    assert_eq!(record.claim(ME, FrameType::L1), Err(Refused::Busy));
    assert_eq!(record.get_mapping(ME, true), Ok(()));
}

#[test]
fn what_the_hypervisor_shows_is_mapped_and_never_granted() {
    for (charge, is_memory) in [(Charge::Memory, true), (Charge::Hypervisor, false)] {
        let record = FrameRecord::new();
        record.set_owned(ME, charge);
        for writable in [true, false] {
            assert_eq!(record.get_mapping(ME, writable), Ok(()), "{charge:?}");
            assert_eq!(record.get_memory(ME, writable), is_memory, "{charge:?}");
        }
        assert!(!record.get_memory(DomId(2), false), "another's");
    }
}
