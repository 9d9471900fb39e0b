//! Whatever a domain holds and whoever holds something of it: at the end every frame is back.

use alloc::{vec, vec::Vec};

use xenolith_hal::{CpuId, Gfn, P2m, P2mType};
use xenolith_sim::{MachineEnd, Sim, SimDomain, SimVcpu, ended_with};

use xenolith_abi::{
    GrantRef,
    grant_table::{EntryFlags, EntryV1, GrantTableOp, MapFlags, MapGrantRef, entry_type},
};
use zerocopy::IntoBytes;

use super::*;
use crate::{
    DomId,
    grant::grant_table_op,
    guest::Caller,
    hypercall::{NoRows, Outcome},
    memory::Place,
    testing,
};

#[test]
fn every_frame_comes_back_when_a_domain_is_destroyed() {
    let sim = Sim::small();
    let hv = testing::hypervisor(&sim);
    let before = hv.memory.free_frames();
    let domain = testing::domain(&hv, 1, 300);
    // A block, and a frame that is owned but not mapped.
    let block = hv.allocate_for(&domain, 9, Place::ANY).unwrap();
    domain
        .p2m
        .map(Gfn(0x200), block, 512, P2mType::RamRw, &hv.tables(&domain))
        .unwrap();
    hv.allocate_for(&domain, 0, Place::ANY).unwrap();
    assert_eq!(domain.memory.owned.load(SeqCst), 813);
    testing::destroy(&hv, &domain);
    assert_eq!(hv.memory.free_frames(), before);
    assert_eq!(domain.life.state(), LifeState::Dead);
    assert!(hv.domains.get(DomId(1)).is_none());
    assert_eq!(domain.arch.released(), 1);
}

#[test]
fn a_destruction_is_done_in_pieces_while_interrupts_wait() {
    let sim = Sim::small();
    let hv = testing::hypervisor(&sim);
    let before = hv.memory.free_frames();
    let domain = testing::domain(&hv, 1, 1000);
    sim.cpu_record(CpuId(0)).interrupt_after(0);
    let mut pieces = 0;
    while hv.destroy(&domain) == Destroyed::NotYet {
        pieces += 1;
    }
    assert_eq!(pieces, 1000 / 64, "a batch of frames each");
    assert_eq!(hv.memory.free_frames(), before);
}

#[test]
fn a_foreign_reference_keeps_its_frame_and_the_number_until_it_is_dropped() {
    let sim = Sim::small();
    let hv = testing::hypervisor(&sim);
    let before = hv.memory.free_frames();
    let domain = testing::domain(&hv, 1, 10);
    let held = hv.pin_own(&domain, Gfn(3)).unwrap();
    let info = hv.get_frame(domain.shared_info, DomId(1)).unwrap();
    let mfn = held.mfn();
    sim.write(mfn, b"secret");
    testing::destroy(&hv, &domain);
    assert_eq!(hv.memory.free_frames(), before - 2);
    assert_eq!(domain.life.state(), LifeState::Dying);
    assert!(
        hv.domains.get(DomId(1)).is_some(),
        "the number is still taken"
    );
    drop(info);
    assert_eq!(domain.life.state(), LifeState::Dying);
    drop(held);
    assert_eq!(domain.life.state(), LifeState::Dead);
    assert!(hv.domains.get(DomId(1)).is_none());
    assert_eq!(hv.memory.free_frames(), before);
    assert!(sim.ram().is_zero(mfn), "freed memory is scrubbed");
}

#[test]
fn a_mapping_of_a_foreign_frame_ends_with_the_domain_that_mapped_it() {
    let sim = Sim::small();
    let hv = testing::hypervisor(&sim);
    let other = testing::domain(&hv, 1, 4);
    let before = hv.memory.free_frames();
    let domain = testing::domain(&hv, 2, 4);
    let mfn = hv.pin_own(&other, Gfn(1)).unwrap().keep();
    domain
        .p2m
        .map(Gfn(77), mfn, 1, P2mType::ForeignRw, &hv.tables(&domain))
        .unwrap();
    testing::destroy(&hv, &domain);
    assert_eq!(hv.memory.free_frames(), before);
    assert_eq!(hv.memory.record(mfn).unwrap().state().count(), 1);
    testing::destroy(&hv, &other);
    assert_eq!(other.life.state(), LifeState::Dead);
}

#[test]
fn nothing_is_given_to_a_dying_domain_and_work_on_it_is_waited_for() {
    let sim = Sim::small();
    let hv = testing::hypervisor(&sim);
    let domain = testing::domain(&hv, 1, 4);
    let at_work = domain.memory.enter().unwrap();
    assert_eq!(hv.destroy(&domain), Destroyed::NotYet);
    assert_eq!(hv.destroy(&domain), Destroyed::NotYet);
    assert!(hv.allocate_for(&domain, 0, Place::ANY).is_err());
    assert!(domain.memory.enter().is_none());
    drop(at_work);
    assert_eq!(hv.destroy(&domain), Destroyed::Yes);
    assert_eq!(hv.destroy(&domain), Destroyed::Yes);
}

#[test]
fn a_domain_cannot_own_more_than_its_most() {
    let sim = Sim::small();
    let hv = testing::hypervisor(&sim);
    let domain = testing::domain(&hv, 1, 1020);
    assert!(hv.allocate_for(&domain, 3, Place::ANY).is_err());
    assert!(hv.allocate_for(&domain, 2, Place::ANY).is_ok());
    assert!(hv.allocate_for(&domain, 0, Place::ANY).is_err());
    assert!(hv.allocate_for(&domain, 64, Place::ANY).is_err());
}

#[test]
fn creation_checks_numbers_and_leaves_nothing_behind_when_it_fails() {
    let sim = Sim::small();
    let hv = testing::hypervisor(&sim);
    let create = |id: u16, vcpus: usize| {
        let vcpus: Vec<_> = (0..vcpus).map(|_| SimVcpu::default()).collect();
        hv.create_domain(testing::config(id), SimDomain::default(), vcpus, |tables| {
            let p2m = sim.new_p2m();
            p2m.map(Gfn(0), xenolith_hal::Mfn(0), 1, P2mType::MmioDirect, tables)
                .map_err(|_| NoMemory)?;
            Ok(p2m)
        })
        .map(|domain| domain.id())
    };
    assert_eq!(create(1, 2), Ok(DomId(1)));
    assert_eq!(create(1, 2), Err(Errno::EEXIST));
    assert_eq!(create(2, 1), Err(Errno::EINVAL));
    assert_eq!(create(0x7ff0, 2), Err(Errno::EINVAL));
    // With three frames left there is room for the tables but not for the shared info.
    let mut taken = vec![];
    while hv.memory.free_frames() > 3 {
        let most = hv.memory.free_frames() - 3;
        taken.push(hv.memory.allocate_largest(most, Place::ANY).unwrap());
    }
    assert_eq!(create(3, 2), Err(Errno::ENOMEM));
    assert_eq!(hv.memory.free_frames(), 3);
    for (mfn, order) in taken {
        hv.memory.free(mfn, order);
    }
    assert_eq!(create(3, 2), Ok(DomId(3)));
}

#[test]
fn the_end_of_the_privileged_domain_is_the_machines() {
    let sim = Sim::small();
    let hv = testing::hypervisor(&sim);
    let dom0 = testing::domain(&hv, 0, 1);
    let other = testing::domain(&hv, 1, 1);
    assert_eq!(hv.shutdown(&other, 0), None);
    assert_eq!(other.life.state(), LifeState::Shutdown);
    assert_eq!(other.pause_count.load(SeqCst), 1);
    assert!(hv.resume(&other) && !hv.resume(&other));
    assert_eq!(other.pause_count.load(SeqCst), 0);
    let action = hv.shutdown(&dom0, 0).unwrap();
    assert_eq!(
        ended_with(|| action.carry_out(&hv.hal)),
        Some(MachineEnd::PowerOff)
    );
    assert_eq!(hv.shutdown(&dom0, 1), None, "only the first reason counts");
    assert_eq!(dom0.life.reason(), 0);
}

#[test]
fn a_crash_or_a_reboot_of_the_privileged_domain_restarts_the_machine() {
    for reason in [1, 3, 4, 99] {
        let sim = Sim::small();
        let hv = testing::hypervisor(&sim);
        let dom0 = testing::domain(&hv, 0, 1);
        assert_eq!(hv.shutdown(&dom0, reason), Some(MachineAction::Restart));
    }
}

/// Two guests with a port to each other, and a page of the first mapped by the second through a grant.
fn connected_pair(hv: &Hypervisor<Sim>) -> [DomainRef<Sim>; 2] {
    let [a, b] = [1, 2].map(|id| testing::domain(hv, id, 16));
    let port = hv.alloc_unbound(&a, DomId(2)).unwrap();
    hv.bind_interdomain(&b, &a, port).unwrap();
    let table = hv.grant_frame(&a, 0).unwrap();
    let entry = EntryV1 {
        flags: EntryFlags(entry_type::PERMIT_ACCESS),
        domid: xenolith_abi::DomId(2),
        frame: 5,
    };
    hv.hal.write_frame(table, 8, entry.as_bytes()).unwrap();
    let map = MapGrantRef {
        host_addr: 0x200 << 12,
        flags: MapFlags::HOST_MAP,
        gref: GrantRef(1),
        dom: xenolith_abi::DomId(1),
        ..MapGrantRef::default()
    };
    let vcpu = testing::vcpu(&b);
    let arg = testing::place(hv, &vcpu, 0x100, &map);
    let caller = Caller { hv, vcpu: &vcpu };
    let done =
        grant_table_op::<_, NoRows>(caller, GrantTableOp::MapGrantRef.number().into(), arg, 1);
    assert_eq!(done, Outcome::Done(0));
    assert_eq!(
        b.p2m.lookup(Gfn(0x200)).map(|e| e.mfn),
        a.p2m.lookup(Gfn(5)).map(|e| e.mfn)
    );
    [a, b]
}

#[test]
fn ports_and_grants_end_with_either_side_first() {
    for first in [0, 1] {
        let sim = Sim::small();
        let hv = testing::hypervisor(&sim);
        let before = hv.memory.free_frames();
        let pair = connected_pair(&hv);
        testing::destroy(&hv, &pair[first]);
        let left = &pair[1 - first];
        assert_eq!(
            pair[first].life.state() == LifeState::Dead,
            first == 1,
            "a granted page that is mapped keeps its granter's number"
        );
        assert_ne!(left.life.state(), LifeState::Dying);
        testing::destroy(&hv, left);
        for domain in &pair {
            assert_eq!(domain.life.state(), LifeState::Dead);
        }
        assert_eq!(hv.memory.free_frames(), before);
    }
}

trait Write {
    fn write(&self, mfn: xenolith_hal::Mfn, bytes: &[u8]);
}

impl Write for Sim {
    fn write(&self, mfn: xenolith_hal::Mfn, bytes: &[u8]) {
        self.write_frame(mfn, 0, bytes).unwrap();
    }
}
