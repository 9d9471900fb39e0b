//! What single entries may be, and what they hold.

use std::sync::atomic::Ordering::SeqCst;

use xenolith_abi::DomId;
use xenolith_arch_x86_64::pv::memory::{Level, entry::*};
use xenolith_core::{
    Errno,
    memory::{FrameType, Place},
};
use xenolith_hal::Mfn;

use super::rig::*;

#[test]
fn a_tree_is_checked_from_its_root_and_undone_with_it() {
    let rig = Rig::new();
    let tree = rig.tree(1, RW);
    let [l4, l3, l2, l1, page] = tree;
    assert_eq!(rig.pin(1, Level::L4, l4), Ok(0));
    let types = [
        FrameType::L4,
        FrameType::L3,
        FrameType::L2,
        FrameType::L1,
        FrameType::Writable,
    ];
    for (mfn, kind) in tree.into_iter().zip(types) {
        let state = rig.state(mfn);
        assert_eq!(
            (state.frame_type(), state.type_count(), state.count()),
            (kind, 1, 2)
        );
    }
    for (table, child) in [(l4, l3), (l3, l2), (l2, l1), (l1, page)] {
        assert_eq!(frame(rig.get(table, 0)), child);
    }
    assert_eq!(rig.get(l4, 256), HYPERVISORS);
    rig.audit(&[]);
    assert_eq!(rig.unpin(1, l4), Ok(0));
    assert_eq!(rig.uses_of(1), 0);
    rig.audit(&[]);
}

#[test]
fn kernel_entries_are_made_usable_in_ring_3_and_remembered() {
    let rig = Rig::new();
    let page = rig.frame(1);
    let l1 = rig.table(
        1,
        &[(0, page, PRESENT | GLOBAL), (1, page, RO), (2, page, 0x800)],
    );
    rig.pin(1, Level::L1, l1).unwrap();
    assert_eq!(rig.get(l1, 0), to(page, RO | GUEST_KERNEL));
    assert_eq!(rig.get(l1, 1), to(page, RO | GLOBAL));
    assert_eq!(rig.get(l1, 2), to(page, 0x800), "not present: left alone");
    rig.update(1, l1, 3, to(page, PRESENT)).unwrap();
    assert_eq!(rig.get(l1, 3), to(page, RO | GUEST_KERNEL));
}

#[test]
fn changes_of_soft_bits_keep_the_counts() {
    let rig = Rig::new();
    let page = rig.frame(1);
    let l1 = rig.table(1, &[(0, page, RW)]);
    rig.pin(1, Level::L1, l1).unwrap();
    let soft = RW | ACCESSED | DIRTY | NO_EXECUTE | AVAILABLE;
    rig.update(1, l1, 0, to(page, soft)).unwrap();
    assert_eq!(rig.get(l1, 0), to(page, soft | GLOBAL));
    rig.audit(&[]);
    rig.update(1, l1, 0, to(page, RO)).unwrap();
    assert_eq!(rig.state(page).type_count(), 0, "only reading is left");
    rig.audit(&[]);
    rig.update(1, l1, 0, to(page, RW)).unwrap();
    rig.audit(&[]);
    rig.update(1, l1, 0, 0).unwrap();
    assert_eq!(rig.state(page).count(), 1);
    rig.audit(&[]);
}

#[test]
fn the_bits_that_the_cpu_set_stay_only_where_that_was_asked_for() {
    let rig = Rig::new();
    let page = rig.frame(1);
    let l1 = rig.table(
        1,
        &[
            (0, page, RW | ACCESSED | DIRTY),
            (1, page, RW | ACCESSED | DIRTY),
        ],
    );
    rig.pin(1, Level::L1, l1).unwrap();
    let at = |slot: u64, cmd: u64| l1.base().0 + slot * 8 + cmd;
    rig.updates(
        1,
        &[(at(0, 0), to(page, RO)), (at(1, 2), to(page, RO))],
        SELF,
    )
    .unwrap();
    assert_eq!(rig.get(l1, 0) & BY_CPU, 0);
    assert_eq!(rig.get(l1, 1) & BY_CPU, BY_CPU);
    rig.audit(&[]);
}

#[test]
fn a_frame_of_another_domain_is_not_mapped() {
    let rig = Rig::new();
    let other = rig.frame(2);
    let l1 = rig.frame(1);
    rig.pin(1, Level::L1, l1).unwrap();
    for flags in [RO, RW] {
        assert_eq!(rig.update(1, l1, 0, to(other, flags)), Err(Errno::EBUSY));
    }
    let at = [(l1.base().0, to(other, RW))];
    assert_eq!(rig.updates(1, &at, 2), Err(Errno::EPERM));
    assert_eq!(rig.updates(1, &at, 1), Err(Errno::ESRCH), "its own number");
    assert_eq!(rig.updates(1, &at, 9), Err(Errno::ESRCH));
    rig.audit(&[]);
    let l1 = rig.frame(0);
    rig.pin(0, Level::L1, l1).unwrap();
    rig.updates(0, &[(l1.base().0, to(other, RW))], 2).unwrap();
    assert_eq!(rig.state(other).frame_type(), FrameType::Writable);
    rig.audit(&[]);
    // It is given up by its owner meanwhile, and goes with the mapping.
    assert!(rig.hv.drop_allocation(&rig.domains[2], other));
    rig.update(0, l1, 0, 0).unwrap();
    assert_eq!(rig.state(other).owner(), None);
    rig.audit(&[]);
}

#[test]
fn devices_are_mapped_by_right_and_never_counted() {
    let rig = Rig::new();
    let l1 = rig.frame(1);
    rig.pin(1, Level::L1, l1).unwrap();
    for owner in [SELF, DomId::IO.0.into()] {
        rig.updates(1, &[(l1.base().0, to(DEVICE, RW))], owner)
            .unwrap();
        assert_eq!(frame(rig.get(l1, 0)), DEVICE);
    }
    assert_eq!(
        rig.update(1, l1, 1, to(Mfn(0xf_0000), RO)),
        Err(Errno::EPERM)
    );
    assert_eq!(
        rig.update(1, l1, 1, to(Mfn(0xff_ffff_ffff), RO)),
        Err(Errno::EPERM)
    );
    rig.update(1, l1, 1, to(READ_ONLY_DEVICE, RW)).unwrap();
    assert_eq!(rig.get(l1, 1) & WRITABLE, 0);
    let l1_of_2 = rig.frame(2);
    rig.pin(2, Level::L1, l1_of_2).unwrap();
    assert_eq!(rig.update(2, l1_of_2, 0, to(DEVICE, RW)), Err(Errno::EPERM));
    // Only devices are mapped in the name of DOMID_IO.
    let page = rig.frame(1);
    let at = [(l1.base().0, to(page, RW))];
    assert_eq!(rig.updates(1, &at, DomId::IO.0.into()), Err(Errno::EBUSY));
    rig.update(1, l1, 0, 0).unwrap();
    rig.audit(&[]);
}

#[test]
fn what_the_hypervisor_shows_is_mapped_to_be_read_by_privileged_domains_and_never_counted() {
    let mut rig = Rig::new();
    let shown = rig.hv.memory.allocate(1, Place::ANY).unwrap();
    rig.machine.shown = [shown, shown.plus(1)].into();
    let before = [shown, shown.plus(1)].map(|mfn| rig.state(mfn));
    let xen = u64::from(DomId::XEN.0);
    let l1 = rig.frame(0);
    rig.pin(0, Level::L1, l1).unwrap();
    rig.machine.may_cache.store(true, SeqCst);
    for mfn in [shown, shown.plus(1)] {
        let at = |flags| [(l1.base().0, to(mfn, flags))];
        assert!(rig.update(0, l1, 0, to(mfn, RO)).is_err());
        assert_eq!(rig.updates(0, &at(RW), xen), Err(Errno::EBUSY));
        assert_eq!(rig.updates(0, &at(RO | PCD), xen), Err(Errno::EACCES));
        rig.updates(0, &at(RO), xen).unwrap();
        assert_eq!(frame(rig.get(l1, 0)), mfn);
        // Nor is it made writable afterwards, by whatever name.
        assert!(rig.update(0, l1, 0, to(mfn, RW)).is_err());
        assert_eq!(rig.updates(0, &at(RW), xen), Err(Errno::EBUSY));
        assert_eq!(rig.get(l1, 0) & WRITABLE, 0);
        rig.update(0, l1, 0, 0).unwrap();
    }
    assert_eq!([shown, shown.plus(1)].map(|mfn| rig.state(mfn)), before);
    let l1 = rig.frame(1);
    rig.pin(1, Level::L1, l1).unwrap();
    let at = [(l1.base().0, to(shown, RO))];
    assert_eq!(rig.updates(1, &at, xen), Err(Errno::EPERM));
    // What it does not show is not there.
    rig.machine.shown.clear();
    let l1 = rig.frame(0);
    rig.pin(0, Level::L1, l1).unwrap();
    let at = [(l1.base().0, to(shown, RO))];
    assert!(rig.updates(0, &at, xen).is_err());
    rig.audit(&[]);
}

#[test]
fn cache_attributes_are_for_domains_with_devices() {
    let rig = Rig::new();
    let page = rig.frame(1);
    let l1 = rig.frame(1);
    rig.pin(1, Level::L1, l1).unwrap();
    for bit in [PWT, PCD, PAT] {
        assert_eq!(rig.update(1, l1, 0, to(page, RW | bit)), Err(Errno::EINVAL));
    }
    rig.machine.may_cache.store(true, SeqCst);
    rig.update(1, l1, 0, to(page, RW | PCD)).unwrap();
    assert_eq!(rig.get(l1, 0) & CACHE, PCD);
    let shared = rig.domains[1].shared_info;
    assert_eq!(
        rig.update(1, l1, 1, to(shared, RW | PCD)),
        Err(Errno::EACCES)
    );
    rig.update(1, l1, 1, to(shared, RW)).unwrap();
    rig.audit(&[]);
}

#[test]
fn a_write_to_a_frame_that_is_no_table_is_a_write_to_memory() {
    let rig = Rig::new();
    let page = rig.frame(1);
    rig.update(1, page, 5, 0x1234_5678_9abc).unwrap();
    assert_eq!(rig.get(page, 5), 0x1234_5678_9abc);
    rig.audit(&[]);
    let other = rig.frame(2);
    assert_eq!(rig.update(1, other, 0, 1), Err(Errno::EINVAL));
    assert_eq!(rig.update(1, DEVICE, 0, 1), Err(Errno::EINVAL));
    let ldt = rig.frame(1);
    rig.tables().hold_descriptors(ldt, DomId(1)).unwrap();
    assert_eq!(rig.update(1, ldt, 0, 1), Err(Errno::EINVAL));
    rig.tables().drop_descriptors(ldt, rig.space(1, 0));
    rig.audit(&[]);
}
