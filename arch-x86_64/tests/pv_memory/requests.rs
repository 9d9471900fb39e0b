//! The hypercalls around the entries: lists, roots, flushes.

use std::sync::atomic::Ordering::SeqCst;

use xenolith_abi::x86_64::MmuUpdate;
use xenolith_arch_x86_64::pv::memory::{Flush, Level, TrappedWrite, Written, entry::*};
use xenolith_core::{Errno, memory::FrameType};
use xenolith_hal::{CpuId, CpuMask, Gfn, GuestVirt, Hal, Mfn};

use super::rig::*;

#[test]
fn a_list_ends_at_the_first_request_that_fails_and_says_how_many_are_done() {
    let rig = Rig::new();
    let (page, l1) = (rig.frame(1), rig.frame(1));
    rig.pin(1, Level::L1, l1).unwrap();
    let mut list: Vec<_> = (0..20)
        .map(|slot| MmuUpdate {
            ptr: l1.base().0 + slot * 8,
            val: to(page, RW),
        })
        .collect();
    list[11].val = to(l1, RW);
    let at = rig.put(1, 0, list.as_slice());
    let done = at + 0x800;
    assert_eq!(
        rig.call(1, 0, 1, [at, 20, done, SELF, 0]),
        Err(Errno::EBUSY)
    );
    assert_eq!(rig.state(page).type_count(), 11);
    let caller = rig.vcpu(1, 0);
    let caller = xenolith_core::guest::Caller {
        hv: &rig.hv,
        vcpu: &caller,
    };
    assert_eq!(caller.read::<u32>(GuestVirt(done)), Ok(11));
    rig.audit(&[]);
}

#[test]
fn a_list_that_leaves_the_callers_memory_is_served_up_to_there() {
    let rig = Rig::new();
    let (page, l1) = (rig.frame(1), rig.frame(1));
    rig.pin(1, Level::L1, l1).unwrap();
    // The arguments of the last vCPU end where nothing is mapped.
    let end = ARGS + 4 * 4096;
    let at = end - 3 * 16;
    let vcpu = rig.vcpu(1, 0);
    let caller = xenolith_core::guest::Caller {
        hv: &rig.hv,
        vcpu: &vcpu,
    };
    for n in 0..3 {
        let request = MmuUpdate {
            ptr: l1.base().0 + n * 8,
            val: to(page, RO),
        };
        caller.write(GuestVirt(at + n * 16), &request).unwrap();
    }
    assert_eq!(rig.call(1, 0, 1, [at, 5, 0, SELF, 0]), Err(Errno::EFAULT));
    assert_eq!(rig.state(page).count(), 4);
    rig.audit(&[]);
}

#[test]
fn the_machine_to_physical_table_is_written_for_own_frames() {
    let rig = Rig::new();
    let page = rig.frame(1);
    rig.updates(1, &[(page.base().0 | 1, 0x777)], SELF).unwrap();
    assert_eq!(rig.hv.hal.machine_to_phys(page), Some(Gfn(0x777)));
    assert_eq!(
        rig.updates(2, &[(page.base().0 | 1, 0x1)], SELF),
        Err(Errno::EINVAL)
    );
    assert_eq!(
        rig.updates(1, &[(page.base().0 | 5, 0x1)], SELF),
        Err(Errno::ENOSYS)
    );
}

#[test]
fn a_new_root_is_loaded_and_the_old_one_let_go() {
    let rig = Rig::new();
    let [first, ..] = rig.tree(1, RW);
    let [second, ..] = rig.tree(1, RW);
    rig.new_root(1, first).unwrap();
    rig.new_root(1, first).unwrap();
    rig.new_root(1, second).unwrap();
    assert_eq!(rig.space(1, 0).kernel(), Some(second));
    assert_eq!(rig.machine.loads.lock().unwrap().len(), 3);
    assert_eq!(rig.state(first).type_count(), 0);
    rig.ext(1, 15, first.0, 0).unwrap();
    assert_eq!(rig.space(1, 0).user(), Some(first));
    rig.audit(&[]);
    rig.ext(1, 15, 0, 0).unwrap();
    assert_eq!(rig.space(1, 0).user(), None);
    assert_eq!(rig.new_root(1, Mfn(5)), Err(Errno::EINVAL));
    rig.audit(&[]);
}

#[test]
fn an_address_is_mapped_through_the_callers_own_tables() {
    let rig = Rig::new();
    let [l4, _, _, l1, page] = rig.tree(1, RW);
    rig.new_root(1, l4).unwrap();
    let new = rig.frame(1);
    let map = |va: u64, val: u64, flags: u64| rig.call(1, 0, 14, [va, val, flags, 0, 0]);
    assert_eq!(map(0x3000, to(new, RW), 2), Ok(0));
    assert_eq!(rig.get(l1, 3), to(new, RW | GLOBAL));
    let flushed = rig.machine.flushed.lock().unwrap().pop();
    assert_eq!(flushed, Some((None, Flush::Page(GuestVirt(0x3000)))));
    assert_eq!(map(0x3000, to(l1, RW), 1), Err(Errno::EBUSY));
    assert_eq!(
        rig.machine.flushed.lock().unwrap().pop(),
        None,
        "nothing changed"
    );
    for hole in [0x20_0000, 1 << 39, 0x8000_0000_0000, 0xffff_8000_0000_0000] {
        assert_eq!(map(hole, 0, 0), Err(Errno::EINVAL));
    }
    assert_eq!(map(0, 0, 1 | 4), Ok(0));
    let (cpus, what) = rig.machine.flushed.lock().unwrap().pop().unwrap();
    assert_eq!((cpus.unwrap().len(), what), (4, Flush::All));
    assert_eq!(rig.state(page).count(), 1);
    let bitmap = rig.put(1, 1, &0b1010_u64);
    assert_eq!(map(0, 0, 2 | bitmap), Ok(0));
    let (cpus, _) = rig.machine.flushed.lock().unwrap().pop().unwrap();
    let mut wanted = CpuMask::only(CpuId(1));
    wanted.insert(CpuId(3));
    assert_eq!(cpus, Some(wanted));
    let foreign = rig.frame(2);
    let other = |dom: u64| rig.call(1, 0, 22, [0x4000, to(foreign, RO), 0, dom, 0]);
    assert_eq!(other(2), Err(Errno::EPERM));
    assert_eq!(other(7), Err(Errno::ESRCH));
    rig.audit(&[]);
}

#[test]
fn operations_answer_as_xen_does() {
    let rig = Rig::new();
    let page = rig.frame(1);
    assert_eq!(rig.unpin(1, page), Err(Errno::EINVAL));
    for cmd in [19, 20] {
        assert_eq!(rig.ext(1, cmd, page.0, 0), Err(Errno::EOPNOTSUPP));
    }
    for cmd in [14, 21, u32::MAX] {
        assert_eq!(rig.ext(1, cmd, page.0, 0), Err(Errno::ENOSYS));
    }
    assert_eq!(rig.ext(1, 12, 0, 0), Err(Errno::EACCES));
    assert_eq!(rig.ext(1, 18, 0, 0), Err(Errno::EINVAL));
    rig.machine.may_cache.store(true, SeqCst);
    for cmd in [6, 10, 12, 18] {
        assert_eq!(rig.ext(1, cmd, 0, 0), Ok(0));
    }
    let hypervisors = 0xffff_8000_0000_0000;
    for (cmd, page) in [(8, 0), (8, hypervisors), (9, 0x1000), (9, hypervisors)] {
        assert_eq!(
            rig.ext(1, cmd, page, 1 << 46),
            Err(Errno::EINVAL),
            "no bitmap there"
        );
    }
    assert_eq!(rig.ext(1, 7, 0xffff_8000_0000_0000, 0), Ok(0));
    for nowhere in [0x8000_0000_0000, 0xffff_8000_0000_0000] {
        for nr in [1, 26] {
            let args = [nowhere, 0, 0, SELF, 0];
            assert_eq!(rig.call(1, 0, nr, args), Err(Errno::EFAULT));
        }
    }
    assert_eq!(rig.ext_of(1, 6, 0, 0, 2), Err(Errno::EPERM));
    assert_eq!(rig.ext_of(1, 6, 0, 0, 1), Err(Errno::ESRCH));
    assert_eq!(
        rig.ext_of(0, 6, 0, 0, 1),
        Err(Errno::EPERM),
        "not about others"
    );
    assert_eq!(rig.ext(1, 13, 0x1000, 8192), Ok(0));
    for (base, entries) in [(0x1001, 1), (0xffff_8000_0000_0000, 1), (0x1000, 8193)] {
        assert_eq!(rig.ext(1, 13, base, entries), Err(Errno::EINVAL));
    }
    assert_eq!(
        rig.ext(1, 13, 0x1001, 0),
        Ok(0),
        "none: the address means nothing"
    );
    assert_eq!(*rig.machine.ldt.lock().unwrap(), [(0x1000, 8192), (0, 0)]);
}

#[test]
fn pages_are_cleared_and_copied_unless_they_are_tables() {
    let rig = Rig::new();
    let (from, dest) = (rig.table(1, &[(7, Mfn(3), 1)]), rig.frame(1));
    rig.ext(1, 17, dest.0, from.0).unwrap();
    assert_eq!(rig.get(dest, 7), to(Mfn(3), 1));
    rig.ext(1, 16, dest.0, 0).unwrap();
    assert_eq!(rig.get(dest, 7), 0);
    rig.pin(1, Level::L1, dest).unwrap();
    assert_eq!(rig.ext(1, 16, dest.0, 0), Err(Errno::EINVAL));
    assert_eq!(rig.ext(1, 17, dest.0, from.0), Err(Errno::EINVAL));
    assert_eq!(rig.ext(1, 17, from.0, dest.0), Ok(0), "a table may be read");
    assert_eq!(rig.ext(2, 16, from.0, 0), Err(Errno::EINVAL));
    rig.audit(&[]);
}

#[test]
fn the_control_domain_pins_and_changes_tables_of_others() {
    let rig = Rig::new();
    let [l4, _, _, l1, _] = rig.tree(1, RW);
    let page = rig.frame(1);
    assert_eq!(rig.ext_of(0, 3, l4.0, 0, 1), Ok(0));
    assert_eq!(rig.ext_of(2, 3, l4.0, 0, 1), Err(Errno::EPERM));
    let about = 2 << 16 | 1;
    rig.updates(0, &[(l1.base().0 + 8, to(page, RW))], about)
        .unwrap();
    assert_eq!(
        rig.updates(0, &[(l1.base().0 + 8, 0)], SELF),
        Err(Errno::EINVAL)
    );
    assert_eq!(
        rig.updates(2, &[(l1.base().0 + 8, 0)], about),
        Err(Errno::EPERM)
    );
    rig.audit(&[]);
    rig.destroy(1);
    rig.audit(&[]);
}

#[test]
fn a_trapped_write_changes_its_bytes_and_is_checked_as_a_whole() {
    let rig = Rig::new();
    let (page, l1) = (rig.frame(1), rig.frame(1));
    rig.pin(1, Level::L1, l1).unwrap();
    let write = |offset, value, size, expected| {
        let trapped = TrappedWrite {
            table: l1,
            offset,
            value,
            size,
            expected,
        };
        rig.tables()
            .write_trapped(trapped, &rig.rights(1), rig.space(1, 0))
    };
    let new = to(page, RW);
    assert_eq!(write(8, new, 8, None), Written::Yes);
    assert_eq!(rig.get(l1, 1), new | GLOBAL);
    assert_eq!(write(8, 0, 1, None), Written::Yes);
    assert_eq!(rig.get(l1, 1), to(page, GLOBAL));
    rig.audit(&[]);
    assert_eq!(write(8, RW, 1, Some(0)), Written::Yes);
    let seen = rig.get(l1, 1);
    assert_eq!(write(8, 0, 8, Some(0)), Written::Differs(seen));
    assert_eq!(write(8, 0, 8, Some(seen)), Written::Yes);
    assert_eq!(
        write(8, to(l1, RW), 8, None),
        Written::Refused(Errno::EBUSY)
    );
    assert_eq!(write(12, 0, 8, None), Written::Refused(Errno::EINVAL));
    let trapped = TrappedWrite {
        table: page,
        offset: 0,
        value: 0,
        size: 8,
        expected: None,
    };
    let other = rig
        .tables()
        .write_trapped(trapped, &rig.rights(1), rig.space(1, 0));
    assert_eq!(other, Written::NotATable);
    rig.audit(&[]);
}

#[test]
fn changes_of_a_root_are_told_to_the_machine() {
    let rig = Rig::new();
    let [l4, l3, ..] = rig.tree(1, RW);
    rig.new_root(1, l4).unwrap();
    rig.update(1, l4, 9, to(l3, RW)).unwrap();
    rig.update(1, l4, 9, 0).unwrap();
    assert_eq!(
        *rig.machine.root_changes.lock().unwrap(),
        [(l4, 9), (l4, 9)]
    );
    assert_eq!(rig.state(l3).frame_type(), FrameType::L3);
    rig.audit(&[]);
}
