//! The classes of published advisories about page tables of paravirtual guests. Each test is named after the class.

use std::sync::atomic::Ordering::SeqCst;

use xenolith_abi::DomId;
use xenolith_arch_x86_64::pv::memory::{Level, TrappedWrite, Written, entry::*};
use xenolith_core::{Errno, memory::FrameType};
use xenolith_hal::{CpuId, Mfn};

use super::rig::*;

const ABOVE_L1: [Level; 3] = [Level::L2, Level::L3, Level::L4];

#[test]
fn a_page_table_is_mapped_writable_at_no_level_and_in_no_order() {
    let rig = Rig::new();
    let [l4, l3, l2, l1, page] = rig.tree(1, RW);
    rig.new_root(1, l4).unwrap();
    for table in [l4, l3, l2, l1] {
        assert_eq!(rig.update(1, l1, 7, to(table, RW)), Err(Errno::EBUSY));
        rig.update(1, l1, 7, to(table, RO)).unwrap();
        // Neither by a change of flags alone.
        assert_eq!(rig.update(1, l1, 7, to(table, RW)), Err(Errno::EBUSY));
        let at = l1.base().0 + 7 * 8 + 2;
        assert_eq!(
            rig.updates(1, &[(at, to(table, RW))], SELF),
            Err(Errno::EBUSY)
        );
    }
    for level in [Level::L1, Level::L2, Level::L3, Level::L4] {
        assert_eq!(
            rig.pin(1, level, page),
            Err(Errno::EINVAL),
            "it is writable"
        );
    }
    rig.audit(&[]);
}

#[test]
fn a_table_that_maps_itself_writable_is_refused() {
    let rig = Rig::new();
    let table = rig.frame(1);
    rig.set(table, 3, to(table, RW));
    assert_eq!(rig.pin(1, Level::L1, table), Err(Errno::EBUSY));
    rig.set(table, 3, to(table, RO));
    assert_eq!(rig.pin(1, Level::L1, table), Ok(0));
    rig.audit(&[]);
    rig.unpin(1, table).unwrap();
    assert_eq!(rig.uses_of(1), 0);
    rig.audit(&[]);
}

#[test]
fn large_pages_are_refused_at_every_level() {
    let rig = Rig::new();
    let page = rig.frame(1);
    for level in ABOVE_L1 {
        let table = rig.table(1, &[(0, page, RW | PAT)]);
        assert_eq!(rig.pin(1, level, table), Err(Errno::EINVAL));
        let table = rig.frame(1);
        rig.pin(1, level, table).unwrap();
        assert_eq!(
            rig.update(1, table, 0, to(page, RW | PAT)),
            Err(Errno::EINVAL)
        );
    }
    rig.audit(&[]);
}

#[test]
fn a_large_page_bit_is_not_smuggled_in_by_a_change_of_flags() {
    let rig = Rig::new();
    let [l4, l3, l2, l1, page] = rig.tree(1, RW);
    rig.pin(1, Level::L4, l4).unwrap();
    for (table, child) in [(l4, l3), (l3, l2), (l2, l1)] {
        for bit in [PAT, PWT, PCD, GLOBAL] {
            assert_eq!(
                rig.update(1, table, 0, to(child, RW | bit)),
                Err(Errno::EINVAL)
            );
        }
    }
    for bit in [PAT, PWT, PCD] {
        assert_eq!(rig.update(1, l1, 0, to(page, RW | bit)), Err(Errno::EINVAL));
    }
    rig.audit(&[]);
}

#[test]
fn addresses_beyond_the_machine_are_refused_at_every_level() {
    let rig = Rig::new();
    for address in [1_u64 << 51, 1 << 46, 0xf_ffff_ffff_f000, 0x8000_0000] {
        let l1 = rig.frame(1);
        rig.pin(1, Level::L1, l1).unwrap();
        assert_eq!(rig.update(1, l1, 0, address | RW), Err(Errno::EPERM));
        for level in ABOVE_L1 {
            let table = rig.frame(1);
            rig.pin(1, level, table).unwrap();
            assert_eq!(rig.update(1, table, 0, address | RW), Err(Errno::EINVAL));
        }
    }
    rig.audit(&[]);
}

#[test]
fn the_hypervisors_slots_of_a_root_are_not_the_guests() {
    let rig = Rig::new();
    let [l4, l3, ..] = rig.tree(1, RW);
    rig.set(l4, 260, to(l3, RW));
    rig.new_root(1, l4).unwrap();
    for slot in 256..=271 {
        assert_eq!(rig.get(l4, slot), HYPERVISORS);
        for value in [to(l3, RW), 0, HYPERVISORS] {
            assert_eq!(rig.update(1, l4, slot, value), Err(Errno::EINVAL));
        }
        assert_eq!(rig.get(l4, slot), HYPERVISORS);
    }
    rig.update(1, l4, 255, to(l3, RW)).unwrap();
    rig.update(1, l4, 272, to(l3, RW)).unwrap();
    rig.audit(&[]);
    rig.destroy(1);
    rig.audit(&[]);
}

#[test]
fn a_linear_entry_never_allows_writing_and_never_comes_to() {
    let rig = Rig::new();
    for level in ABOVE_L1 {
        let table = rig.frame(1);
        rig.pin(1, level, table).unwrap();
        assert_eq!(rig.update(1, table, 5, to(table, RW)), Err(Errno::EINVAL));
        rig.update(1, table, 5, to(table, RO)).unwrap();
        assert_eq!(rig.update(1, table, 5, to(table, RW)), Err(Errno::EINVAL));
        assert_eq!(rig.get(table, 5), to(table, RO));
        let other = rig.frame(1);
        rig.pin(1, level, other).unwrap();
        assert_eq!(rig.update(1, table, 6, to(other, RW)), Err(Errno::EINVAL));
        rig.update(1, table, 6, to(other, RO | ACCESSED)).unwrap();
        assert_eq!(
            rig.update(1, table, 6, to(other, RW | ACCESSED)),
            Err(Errno::EINVAL)
        );
        rig.audit(&[]);
        // A linear mapping keeps its target a table.
        rig.unpin(1, other).unwrap();
        assert_eq!(rig.state(other).type_count(), 1);
        rig.unpin(1, table).unwrap();
        assert_eq!(rig.state(other).type_count(), 0);
        rig.audit(&[]);
    }
}

#[test]
fn linear_mappings_are_one_table_deep_and_make_no_circles() {
    let rig = Rig::new();
    let [a, b, c] = [(); 3].map(|()| rig.frame(1));
    for table in [a, b, c] {
        rig.pin(1, Level::L3, table).unwrap();
    }
    rig.update(1, a, 0, to(b, RO)).unwrap();
    assert_eq!(
        rig.update(1, b, 0, to(a, RO)),
        Err(Errno::EINVAL),
        "a circle"
    );
    assert_eq!(
        rig.update(1, b, 0, to(c, RO)),
        Err(Errno::EINVAL),
        "a chain below"
    );
    assert_eq!(
        rig.update(1, c, 0, to(a, RO)),
        Err(Errno::EINVAL),
        "a chain above"
    );
    rig.update(1, a, 1, to(c, RO)).unwrap();
    rig.update(1, b, 9, to(b, RO)).unwrap();
    rig.audit(&[]);
    rig.update(1, a, 0, 0).unwrap();
    rig.update(1, a, 1, 0).unwrap();
    rig.update(1, b, 0, to(a, RO)).unwrap();
    rig.audit(&[]);
    for table in [b, a, c] {
        rig.unpin(1, table).unwrap();
    }
    assert_eq!(rig.uses_of(1), 0);
    rig.audit(&[]);
}

#[test]
fn a_linear_entry_leads_to_a_checked_table_of_ones_own() {
    let rig = Rig::new();
    let (table, raw, foreign) = (rig.frame(1), rig.frame(1), rig.frame(2));
    rig.pin(1, Level::L4, table).unwrap();
    rig.pin(2, Level::L4, foreign).unwrap();
    assert_eq!(rig.update(1, table, 0, to(foreign, RO)), Err(Errno::EINVAL));
    // A frame that is not a root yet becomes an L3 table by such an entry.
    rig.update(1, table, 0, to(raw, RO)).unwrap();
    assert_eq!(rig.state(raw).frame_type(), FrameType::L3);
    rig.audit(&[]);
}

#[test]
fn a_table_is_of_one_level_at_a_time() {
    let rig = Rig::new();
    let [l4, l3, l2, l1, _] = rig.tree(1, RW);
    rig.pin(1, Level::L4, l4).unwrap();
    let levels = [Level::L1, Level::L2, Level::L3, Level::L4];
    for (table, own) in [(l1, Level::L1), (l2, Level::L2), (l3, Level::L3)] {
        for level in levels.into_iter().filter(|level| *level != own) {
            assert_eq!(rig.pin(1, level, table), Err(Errno::EINVAL));
        }
    }
    assert_eq!(rig.new_root(1, l3), Err(Errno::EINVAL));
    assert_eq!(rig.update(1, l4, 1, to(l1, RW)), Err(Errno::EINVAL));
    assert_eq!(rig.update(1, l3, 1, to(l1, RW)), Err(Errno::EINVAL));
    assert_eq!(rig.update(1, l2, 1, to(l2, RW)), Err(Errno::EINVAL));
    rig.audit(&[]);
}

#[test]
fn a_table_is_pinned_and_unpinned_once() {
    let rig = Rig::new();
    let [l4, ..] = rig.tree(1, RW);
    rig.pin(1, Level::L4, l4).unwrap();
    for _ in 0..3 {
        assert_eq!(rig.pin(1, Level::L4, l4), Err(Errno::EINVAL));
    }
    rig.unpin(1, l4).unwrap();
    assert_eq!(rig.unpin(1, l4), Err(Errno::EINVAL));
    assert_eq!(rig.uses_of(1), 0);
    rig.audit(&[]);
}

#[test]
fn a_frame_is_not_written_while_a_tlb_still_lets_it() {
    let rig = Rig::new();
    let [l4, _, _, l1, page] = rig.tree(1, RW);
    rig.new_root(1, l4).unwrap();
    let tlbs = rig.machine.sim.tlbs();
    tlbs.fill(CpuId(3), DomId(1), page, true);
    rig.update(1, l1, 0, 0).unwrap();
    assert!(tlbs.may_write(page), "the guest flushes when it likes");
    rig.set(page, 0, 0);
    let before = tlbs.forced();
    rig.pin(1, Level::L1, page).unwrap();
    assert!(!tlbs.may_write(page));
    assert!(tlbs.forced() > before);
    rig.audit(&[]);
    // A CPU that has flushed since is left alone.
    rig.unpin(1, page).unwrap();
    for cpu in 0..4 {
        tlbs.flush(CpuId(cpu));
    }
    let before = tlbs.forced();
    rig.update(1, l1, 0, to(page, RW)).unwrap();
    assert_eq!(tlbs.forced(), before);
}

#[test]
fn a_flush_for_a_domain_reaches_whoever_may_keep_its_frames_and_nobody_else() {
    let rig = Rig::new();
    let tlbs = rig.machine.sim.tlbs();
    let (page, other) = (rig.frame(1), rig.frame(2));
    let tables = [0, 1, 2].map(|dom| {
        let l1 = rig.frame(dom);
        rig.pin(dom, Level::L1, l1).unwrap();
        l1
    });
    // Domain 1 has its page mapped, and domain 0, which may; domain 2 has its own.
    for (dom, mfn) in [(1, page), (2, other)] {
        rig.update(dom, tables[usize::from(dom)], 0, to(mfn, RW))
            .unwrap();
    }
    let entry = tables[0].base().0;
    rig.updates(0, &[(entry, to(page, RW))], 1).unwrap();
    for (dom, mfn) in [(0, page), (1, page), (2, other)] {
        tlbs.fill(CpuId(dom), DomId(dom), mfn, true);
        rig.update(dom, tables[usize::from(dom)], 0, 0).unwrap();
    }
    rig.pin(1, Level::L1, page).unwrap();
    assert!(!tlbs.may_write(page));
    assert!(tlbs.may_write(other), "none of domain 1's business");
    rig.pin(2, Level::L1, other).unwrap();
    assert!(!tlbs.may_write(other));
    rig.audit(&[]);
}

#[test]
fn frames_of_a_third_domain_in_a_domains_tables_are_flushed_wherever_they_are() {
    let rig = Rig::new();
    let tlbs = rig.machine.sim.tlbs();
    let (page, l1) = (rig.frame(2), rig.frame(1));
    rig.pin(1, Level::L1, l1).unwrap();
    // Domain 0 puts it there.
    let entry = l1.base().0;
    rig.updates(0, &[(entry, to(page, RW))], 2 << 16 | 2)
        .unwrap();
    tlbs.fill(CpuId(1), DomId(1), page, true);
    rig.update(1, l1, 0, 0).unwrap();
    rig.pin(2, Level::L1, page).unwrap();
    assert!(!tlbs.may_write(page));
    rig.audit(&[]);
}

#[test]
fn a_former_table_is_not_written_while_a_cpu_may_still_walk_it() {
    let rig = Rig::new();
    let [l4, _, l2, l1, _] = rig.tree(1, RW);
    rig.new_root(1, l4).unwrap();
    let other = rig.frame(1);
    rig.pin(1, Level::L1, other).unwrap();
    rig.update(1, l2, 0, 0).unwrap();
    assert_eq!(rig.state(l1).type_count(), 0);
    let tlbs = rig.machine.sim.tlbs();
    let before = tlbs.forced();
    rig.update(1, other, 0, to(l1, RW)).unwrap();
    assert!(tlbs.forced() > before, "cached walks are gone first");
    rig.audit(&[]);
}

#[test]
fn a_frame_written_past_the_caches_is_checked_as_it_is_in_memory() {
    let rig = Rig::new();
    rig.machine.may_cache.store(true, SeqCst);
    let (l1, page) = (rig.frame(1), rig.frame(1));
    rig.pin(1, Level::L1, l1).unwrap();
    rig.update(1, l1, 0, to(page, RW | PCD)).unwrap();
    rig.update(1, l1, 0, 0).unwrap();
    // The simulated machine has no caches; that the record remembers is tested beside it.
    rig.pin(1, Level::L1, page).unwrap();
    rig.audit(&[]);
}

#[test]
fn a_frame_given_up_while_it_is_a_table_stays_one_to_the_end() {
    let rig = Rig::new();
    let [l4, l3, l2, l1, page] = rig.tree(1, RW);
    rig.pin(1, Level::L4, l4).unwrap();
    let free = rig.hv.memory.free_frames();
    for mfn in [l4, l3, l2, l1, page] {
        assert!(rig.hv.drop_allocation(&rig.domains[1], mfn));
    }
    assert_eq!(rig.hv.memory.free_frames(), free);
    rig.audit(&[]);
    rig.unpin(1, l4).unwrap();
    assert_eq!(rig.hv.memory.free_frames(), free + 5);
    rig.audit(&[]);
}

#[test]
fn memory_shared_with_the_hypervisor_is_no_page_table() {
    let rig = Rig::new();
    let shared = rig.domains[1].shared_info;
    for level in [Level::L1, Level::L2, Level::L3, Level::L4] {
        assert_eq!(rig.pin(1, level, shared), Err(Errno::EINVAL));
    }
    let hold = rig.tables().hold_descriptors(shared, DomId(1));
    assert_eq!(hold, Err(Errno::EINVAL));
    rig.audit(&[(shared, Default::default())][..0]);
}

#[test]
fn a_misaligned_address_of_an_entry_is_no_entry() {
    let rig = Rig::new();
    let (page, l1) = (rig.frame(1), rig.frame(1));
    rig.pin(1, Level::L1, l1).unwrap();
    for low in 4..8 {
        let at = [(l1.base().0 + low, to(page, RW))];
        assert_eq!(rig.updates(1, &at, SELF), Err(Errno::ENOSYS));
    }
    assert_eq!(rig.get(l1, 0), 0);
    rig.audit(&[]);
}

#[test]
fn a_half_written_entry_is_checked_as_the_cpu_would_see_it() {
    let rig = Rig::new();
    let l1 = rig.table(1, &[]);
    rig.set(l1, 0, to(l1, WRITABLE));
    rig.pin(1, Level::L1, l1).unwrap();
    let write = TrappedWrite {
        table: l1,
        offset: 0,
        value: RW,
        size: 1,
        expected: None,
    };
    let written = rig
        .tables()
        .write_trapped(write, &rig.rights(1), rig.space(1, 0));
    assert_eq!(written, Written::Refused(Errno::EBUSY));
    assert_eq!(rig.get(l1, 0), to(l1, WRITABLE));
    rig.audit(&[]);
}

#[test]
fn a_bit_of_the_hypervisors_own_is_not_the_guests_to_set() {
    let rig = Rig::new();
    let (page, l1) = (rig.frame(1), rig.frame(1));
    rig.set(l1, 9, to(page, RW | UNTYPED));
    rig.pin(1, Level::L1, l1).unwrap();
    assert_eq!(rig.get(l1, 9) & UNTYPED, 0);
    for flags in [RW, RO, RW, RW | ACCESSED, RO | ACCESSED] {
        rig.update(1, l1, 0, to(page, flags | UNTYPED)).unwrap();
        assert_eq!(rig.get(l1, 0) & UNTYPED, 0);
        rig.audit(&[]);
        rig.update(1, l1, 0, to(page, flags)).unwrap();
        rig.audit(&[]);
    }
    rig.unpin(1, l1).unwrap();
    assert_eq!(rig.uses_of(1), 0);
    rig.audit(&[]);
}

#[test]
fn descriptors_are_neither_tables_nor_written_and_lead_nowhere() {
    let rig = Rig::new();
    let (ldt, l1) = (rig.frame(1), rig.frame(1));
    rig.pin(1, Level::L1, l1).unwrap();
    // To the hypervisor's code.
    let gate = 0x0000_ec00_e008_0000;
    rig.set(ldt, 3, gate);
    assert_eq!(
        rig.tables().hold_descriptors(ldt, DomId(1)),
        Err(Errno::EINVAL)
    );
    rig.set(ldt, 3, 0x00cf_9300_0000_ffff);
    rig.tables().hold_descriptors(ldt, DomId(1)).unwrap();
    assert_eq!(rig.get(ldt, 3), 0x00cf_f300_0000_ffff, "for ring 3");
    assert_eq!(rig.update(1, l1, 0, to(ldt, RW)), Err(Errno::EBUSY));
    assert_eq!(rig.pin(1, Level::L1, ldt), Err(Errno::EINVAL));
    let space = rig.space(1, 0);
    let update = |value| {
        rig.tables()
            .update_descriptor(ldt, 4, value, DomId(1), space)
    };
    assert!(update(gate).is_err());
    assert_eq!(update(0x00af_9b00_0000_ffff), Ok(()));
    rig.tables().drop_descriptors(ldt, space);
    rig.update(1, l1, 0, to(ldt, RW)).unwrap();
    rig.audit(&[]);
}

#[test]
fn a_dead_domains_tables_hold_nothing() {
    let rig = Rig::new();
    let [l4, l3, _, l1, _] = rig.tree(1, RW);
    rig.new_root(1, l4).unwrap();
    rig.ext(1, 15, l4.0, 0).unwrap();
    rig.pin(1, Level::L3, l3).unwrap();
    rig.update(1, l1, 1, to(l4, RO)).unwrap();
    let foreign = rig.frame(2);
    let l1_of_0 = rig.frame(0);
    rig.pin(0, Level::L1, l1_of_0).unwrap();
    rig.updates(0, &[(l1_of_0.base().0, to(foreign, RW))], 2)
        .unwrap();
    rig.destroy(1);
    rig.destroy(2);
    rig.audit(&[]);
    for mfn in [l4, l3, l1] {
        assert_eq!(rig.state(mfn).owner(), None);
    }
    assert_eq!(
        rig.state(foreign).owner(),
        Some(DomId(2)),
        "domain 0 has it mapped"
    );
    assert_eq!(
        rig.ext_of(0, 3, foreign.0, 0, 2),
        Err(Errno::EINVAL),
        "too late"
    );
    rig.update(0, l1_of_0, 0, 0).unwrap();
    assert_eq!(rig.state(foreign).owner(), None);
    rig.destroy(0);
    let left: Vec<Mfn> = Vec::new();
    assert_eq!(left.len() as u64, rig.uses_of(0));
    rig.audit(&[]);
}
