//! Checks and undoings that interrupts stop half way.

use std::sync::atomic::AtomicU64;

use xenolith_arch_x86_64::pv::memory::{Level, Stop, entry::*};
use xenolith_core::{Errno, hypercall::Outcome, memory::FrameType};
use xenolith_hal::{CpuId, Mfn};

use super::rig::*;

/// A tree of several tables each level.
fn wide_tree(rig: &Rig, dom: u16) -> (Mfn, Vec<Mfn>) {
    let mut tables = Vec::new();
    let l4 = rig.frame(dom);
    for n in 0..3 {
        let l3 = rig.frame(dom);
        rig.set(l4, n * 5, to(l3, RW));
        for m in 0..2 {
            let l2 = rig.frame(dom);
            rig.set(l3, m * 300, to(l2, RW));
            for k in 0..2 {
                let l1 = rig.table(dom, &[(k, rig.frame(dom), RW), (9, l4, RO)]);
                rig.set(l2, 100 + k, to(l1, RW));
                tables.push(l1);
            }
            tables.push(l2);
        }
        tables.push(l3);
    }
    tables.push(l4);
    (l4, tables)
}

impl Rig {
    /// An interrupt waits for every CPU all the time.
    fn storm(&self) {
        for cpu in 0..4 {
            self.machine.sim.cpu_record(CpuId(cpu)).interrupt_after(0);
        }
    }

    fn pin_once(&self, vcpu: u16, level: Level, mfn: Mfn) -> Outcome {
        let op = xenolith_abi::x86_64::MmuextOp {
            cmd: level as u32 - 1,
            arg1: mfn.0,
            ..Default::default()
        };
        let at = self.put(1, vcpu, &op);
        self.call_once(1, vcpu, 26, [at, 1, 0, SELF, 0])
    }
}

#[test]
fn a_check_ends_however_often_it_is_stopped_and_so_does_an_undoing() {
    let rig = Rig::new();
    let (l4, tables) = wide_tree(&rig, 1);
    rig.storm();
    let mut turns = 1;
    let mut next = rig.pin_once(0, Level::L4, l4);
    while let Outcome::Again(args) = next {
        rig.audit(&[]);
        assert_eq!(rig.space(1, 0).held().count(), 1);
        next = rig.call_once(1, 0, 26, args);
        turns += 1;
    }
    assert_eq!(next, Outcome::Done(0));
    assert!(turns > 10, "only {turns} turns");
    assert!(tables.iter().all(|mfn| rig.state(*mfn).validated()));
    rig.audit(&[]);
    assert_eq!(rig.unpin(1, l4), Ok(0));
    assert_eq!(
        rig.uses_of(1),
        0,
        "all is undone when the guest hears of it"
    );
    rig.audit(&[]);
}

#[test]
fn a_table_that_was_left_half_checked_is_finished_by_another_cpu() {
    let rig = Rig::new();
    let (l4, tables) = wide_tree(&rig, 1);
    rig.storm();
    let Outcome::Again(args) = rig.pin_once(0, Level::L4, l4) else {
        panic!("not stopped")
    };
    rig.quiet();
    assert_eq!(rig.pin_once(1, Level::L4, l4), Outcome::Done(0));
    rig.audit(&[]);
    // The first one goes on and finds it pinned.
    assert_eq!(rig.call(1, 0, 26, args), Err(Errno::EINVAL));
    rig.audit(&[]);
    rig.unpin(1, l4).unwrap();
    assert!(tables.iter().all(|mfn| rig.state(*mfn).type_count() == 0));
    rig.audit(&[]);
}

#[test]
fn a_half_checked_table_is_dropped_once_when_the_guest_asks_for_something_else() {
    let rig = Rig::new();
    let (l4, _) = wide_tree(&rig, 1);
    let (other, _) = wide_tree(&rig, 1);
    rig.storm();
    assert!(matches!(rig.pin_once(0, Level::L4, l4), Outcome::Again(_)));
    rig.audit(&[]);
    assert_eq!(rig.pin(1, Level::L4, other), Ok(0));
    rig.audit(&[]);
    assert_eq!(rig.state(l4).type_count(), 0);
    assert_eq!(rig.unpin(1, other), Ok(0));
    assert_eq!(rig.uses_of(1), 0);
    rig.audit(&[]);
}

#[test]
fn a_table_that_turns_out_wrong_late_is_undone_whole_even_if_that_is_stopped() {
    let rig = Rig::new();
    let (l4, _) = wide_tree(&rig, 1);
    let foreign = rig.frame(2);
    rig.set(l4, 400, to(foreign, RW));
    rig.storm();
    assert_eq!(rig.pin(1, Level::L4, l4), Err(Errno::EINVAL));
    assert_eq!(rig.uses_of(1), 0);
    rig.audit(&[]);
    let deep = rig.table(1, &[(0, rig.frame(1), RW), (511, foreign, RO)]);
    let l2 = rig.table(1, &[(5, deep, RW)]);
    let l3 = rig.table(1, &[(5, l2, RW)]);
    rig.set(l4, 400, to(l3, RW));
    assert_eq!(rig.pin(1, Level::L4, l4), Err(Errno::EBUSY));
    assert_eq!(rig.uses_of(1), 0);
    rig.audit(&[]);
}

#[test]
fn a_replaced_subtree_is_undone_before_the_guest_hears_of_it() {
    let rig = Rig::new();
    let (l4, _) = wide_tree(&rig, 1);
    rig.new_root(1, l4).unwrap();
    rig.storm();
    let old = frame(rig.get(l4, 5));
    rig.update(1, l4, 5, 0).unwrap();
    assert_eq!(rig.state(old).type_count(), 0);
    rig.audit(&[]);
    let (other, _) = wide_tree(&rig, 1);
    rig.new_root(1, other).unwrap();
    assert_eq!(rig.state(l4).type_count(), 0);
    assert_eq!(rig.space(1, 0).held().count(), 1);
    rig.audit(&[]);
}

#[test]
fn a_domain_that_dies_half_way_leaks_nothing() {
    for stops in 0..12 {
        let rig = Rig::new();
        let before = rig.hv.memory.free_frames();
        let (l4, _) = wide_tree(&rig, 1);
        let (other, _) = wide_tree(&rig, 1);
        rig.new_root(1, other).unwrap();
        rig.storm();
        let mut next = rig.pin_once(0, Level::L4, l4);
        for _ in 0..stops {
            if let Outcome::Again(args) = next {
                next = rig.call_once(1, 0, 26, args);
            }
        }
        rig.audit(&[]);
        let at = AtomicU64::new(0);
        let mut turns = 0;
        while !rig.tables().release_domain(&rig.domains[1], &at) {
            rig.audit(&[]);
            turns += 1;
            rig.machine
                .sim
                .cpu_record(CpuId(0))
                .interrupt_after(turns / 20);
        }
        assert_eq!(rig.uses_of(1), 0);
        rig.quiet();
        rig.destroy(1);
        rig.audit(&[]);
        assert!(rig.hv.memory.free_frames() > before);
    }
}

#[test]
fn a_domain_ends_under_interrupts_that_never_stop() {
    let rig = Rig::new();
    for vcpu in 0..4 {
        let (l4, _) = wide_tree(&rig, 1);
        let op = xenolith_abi::x86_64::MmuextOp {
            cmd: 5,
            arg1: l4.0,
            ..Default::default()
        };
        let at = rig.put(1, vcpu, &op);
        assert_eq!(rig.call(1, vcpu, 26, [at, 1, 0, SELF, 0]), Ok(0));
        rig.pin(1, Level::L4, l4).unwrap();
    }
    rig.storm();
    let at = AtomicU64::new(0);
    let mut turns = 0;
    while !rig.tables().release_domain(&rig.domains[1], &at) {
        turns += 1;
        assert!(turns < 10_000, "it does not end");
    }
    assert_eq!(rig.uses_of(1), 0);
    rig.audit(&[]);
}

#[test]
fn a_half_undone_table_is_taken_up_again_as_what_it_was() {
    let rig = Rig::new();
    let (l4, tables) = wide_tree(&rig, 1);
    rig.pin(1, Level::L4, l4).unwrap();
    rig.storm();
    let op = xenolith_abi::x86_64::MmuextOp {
        cmd: 4,
        arg1: l4.0,
        ..Default::default()
    };
    let at = rig.put(1, 0, &op);
    let Outcome::Again(args) = rig.call_once(1, 0, 26, [at, 1, 0, SELF, 0]) else {
        panic!("not stopped")
    };
    rig.audit(&[]);
    assert!(!rig.state(l4).validated());
    assert_eq!(rig.state(l4).frame_type(), FrameType::L4);
    rig.quiet();
    assert_eq!(rig.pin_once(1, Level::L4, l4), Outcome::Done(0));
    rig.audit(&[]);
    assert_eq!(rig.call(1, 0, 26, args), Ok(0));
    assert!(tables.iter().all(|mfn| rig.state(*mfn).validated()));
    rig.audit(&[]);
}

#[test]
fn a_frame_is_no_other_type_while_it_is_half_checked() {
    let rig = Rig::new();
    let (l4, tables) = wide_tree(&rig, 1);
    let l1 = rig.frame(1);
    rig.pin(1, Level::L1, l1).unwrap();
    rig.storm();
    assert!(matches!(rig.pin_once(0, Level::L4, l4), Outcome::Again(_)));
    rig.quiet();
    let half: Vec<_> = tables
        .into_iter()
        .filter(|mfn| rig.state(*mfn).type_count() > 0 && !rig.state(*mfn).validated())
        .collect();
    assert!(!half.is_empty());
    for mfn in half {
        // Another vCPU tries, so the first one keeps what it holds.
        let request = xenolith_abi::x86_64::MmuUpdate {
            ptr: l1.base().0,
            val: to(mfn, RW),
        };
        let at = rig.put(1, 1, &request);
        assert_eq!(rig.call(1, 1, 1, [at, 1, 0, SELF, 0]), Err(Errno::EBUSY));
        let request = xenolith_abi::x86_64::MmuUpdate {
            ptr: mfn.base().0,
            val: to(mfn, RO),
        };
        let at = rig.put(1, 1, &request);
        assert_eq!(rig.call(1, 1, 1, [at, 1, 0, SELF, 0]), Err(Errno::EINVAL));
    }
    rig.audit(&[]);
}

#[test]
fn the_first_roots_of_a_vcpu_are_taken_in_pieces_and_those_asked_for_last_count() {
    let rig = Rig::new();
    let [first, second, third] = [(); 3].map(|()| wide_tree(&rig, 1).0);
    let bad = rig.table(1, &[(3, rig.frame(1), RW | PAT)]);
    rig.storm();
    let (vcpu, space) = (rig.vcpu(1, 1), rig.space(1, 1));
    let once = |kernel, user| rig.tables().start_with_roots(&vcpu, kernel, user, space);
    let all = |kernel, user| {
        let mut turns = 0;
        loop {
            match once(kernel, user) {
                Err(Stop::Preempted) => turns += 1,
                done => return (done, turns),
            }
            rig.audit(&[]);
        }
    };
    // One is begun, and never asked for again.
    assert_eq!(once(first, None), Err(Stop::Preempted));
    let (done, turns) = all(second, Some(first));
    assert_eq!(done, Ok(()));
    assert!(turns > 10, "only {turns} turns");
    assert_eq!((space.kernel(), space.user()), (Some(second), Some(first)));
    // What is refused for one root leaves nothing that a further call would not change.
    let (refused, _) = all(third, Some(bad));
    assert_eq!(refused, Err(Stop::Failed(Errno::EINVAL)));
    assert_eq!(all(first, None).0, Ok(()));
    assert_eq!((space.kernel(), space.user()), (Some(first), None));
    assert_eq!(all(first, None).0, Ok(()), "and again");
    for gone in [second, third, bad] {
        assert_eq!(rig.state(gone).type_count(), 0);
    }
    rig.audit(&[]);
    rig.destroy(1);
    rig.audit(&[]);
}
