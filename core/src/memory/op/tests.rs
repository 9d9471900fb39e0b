//! `memory_op` as a guest sees it.

use alloc::{vec, vec::Vec};
use core::sync::atomic::Ordering::SeqCst;

use xenolith_abi::{
    DomId as WireDomId, GuestHandle,
    memory::{
        AcquireResource, AddToPhysmap, AddToPhysmapBatch, MapSpace, MemFlags, MemoryDomain,
        RemoveFromPhysmap, Reservation,
    },
};
use xenolith_hal::{CpuId, Gfn, Hal, Mfn, P2m, P2mType};
use xenolith_sim::Sim;
use zerocopy::{Immutable, IntoBytes};

use super::*;
use crate::{
    Hypervisor, VcpuRef,
    domain::LifeState,
    memory::Place,
    testing::{self, place},
};

mod machine;

/// Where the tests keep arguments and lists in a guest's memory.
const ARG: u64 = 0x100;
const LIST: u64 = 0x1000;
const LIST2: u64 = 0x2000;
const LIST3: u64 = 0x3000;

fn call<T: IntoBytes + Immutable>(
    hv: &Hypervisor<Sim>,
    vcpu: &VcpuRef<Sim>,
    op: MemoryOp,
    arg: &T,
) -> i64 {
    let arg = place(hv, vcpu, ARG, arg);
    let mut cmd = u64::from(op.number());
    for _ in 0..100_000 {
        match memory_op(Caller { hv, vcpu }, cmd, arg) {
            Outcome::Done(result) => return result,
            Outcome::Again([next, same, ..]) => {
                assert_eq!(same, arg.0);
                assert!(next >> CMD_BITS > cmd >> CMD_BITS, "no progress");
                cmd = next;
            }
        }
    }
    panic!("a call does not end");
}

fn extents(
    hv: &Hypervisor<Sim>,
    vcpu: &VcpuRef<Sim>,
    op: MemoryOp,
    frames: &[u64],
    order: u32,
) -> i64 {
    place(hv, vcpu, LIST, &frames_as_words(frames));
    let wanted = Reservation {
        extent_start: GuestHandle::new(LIST),
        nr_extents: frames.len() as u64,
        extent_order: order,
        domid: WireDomId::SELF,
        ..Reservation::default()
    };
    call(hv, vcpu, op, &wanted)
}

fn frames_as_words(frames: &[u64]) -> [u64; 64] {
    let mut words = [0; 64];
    words[..frames.len()].copy_from_slice(frames);
    words
}

fn setup() -> (Sim, Hypervisor<Sim>) {
    let sim = Sim::small();
    let hv = testing::hypervisor(&sim);
    (sim, hv)
}

#[test]
fn a_guest_gives_pages_back_and_gets_new_ones() {
    let (_, hv) = setup();
    let domain = testing::domain(&hv, 1, 16);
    let vcpu = testing::vcpu(&domain);
    let free = hv.memory.free_frames();
    let down = extents(&hv, &vcpu, MemoryOp::DecreaseReservation, &[9, 10, 11], 0);
    assert_eq!(down, 3);
    assert_eq!(domain.memory.owned.load(SeqCst), 13);
    assert_eq!(hv.memory.free_frames(), free + 3);
    assert_eq!(domain.p2m.lookup(Gfn(10)), None);
    let up = extents(&hv, &vcpu, MemoryOp::PopulatePhysmap, &[10, 0x5000], 0);
    assert_eq!(up, 2);
    assert!(domain.p2m.lookup(Gfn(0x5000)).is_some());
    assert_eq!(domain.memory.owned.load(SeqCst), 15);
}

#[test]
fn a_call_that_cannot_go_on_says_how_far_it_came() {
    let (_, hv) = setup();
    let domain = testing::domain(&hv, 1, 1023);
    let vcpu = testing::vcpu(&domain);
    // One frame below the most.
    let up = extents(&hv, &vcpu, MemoryOp::PopulatePhysmap, &[0x700, 0x701], 0);
    assert_eq!(up, 1);
    // The second frame is a hole.
    let down = extents(&hv, &vcpu, MemoryOp::DecreaseReservation, &[9, 0x701], 0);
    assert_eq!(down, 1);
    let far = extents(&hv, &vcpu, MemoryOp::PopulatePhysmap, &[u64::MAX], 0);
    assert_eq!(far, 0);
    assert_eq!(domain.memory.owned.load(SeqCst), 1023);
    // A domain may not ask for 4 MiB in one piece.
    assert_eq!(
        extents(&hv, &vcpu, MemoryOp::DecreaseReservation, &[0], 10),
        0
    );
}

#[test]
fn a_long_call_is_interrupted_and_goes_on() {
    let (sim, hv) = setup();
    let domain = testing::domain(&hv, 1, 16);
    let vcpu = testing::vcpu(&domain);
    sim.cpu_record(CpuId(0)).interrupt_after(0);
    let list: Vec<_> = (0x100..0x120).collect();
    assert_eq!(extents(&hv, &vcpu, MemoryOp::PopulatePhysmap, &list, 0), 32);
    assert_eq!(domain.memory.owned.load(SeqCst), 48);
}

#[test]
fn a_failed_extent_leaves_no_frame_behind() {
    let (sim, hv) = setup();
    let domain = testing::domain(&hv, 1, 16);
    let vcpu = testing::vcpu(&domain);
    let free = hv.memory.free_frames();
    sim.faults().fail_after(0);
    assert_eq!(
        extents(&hv, &vcpu, MemoryOp::PopulatePhysmap, &[1 << 20], 0),
        0
    );
    assert_eq!(domain.memory.owned.load(SeqCst), 16);
    assert_eq!(hv.memory.free_frames(), free);
}

#[test]
fn blocks_are_given_back_in_one_piece() {
    let (_, hv) = setup();
    let domain = testing::domain(&hv, 1, 16);
    let vcpu = testing::vcpu(&domain);
    assert_eq!(
        extents(&hv, &vcpu, MemoryOp::PopulatePhysmap, &[0x400], 9),
        1
    );
    assert_eq!(domain.p2m.lookup(Gfn(0x400)).map(|e| e.order), Some(9));
    assert_eq!(
        extents(&hv, &vcpu, MemoryOp::DecreaseReservation, &[0x410], 4),
        1
    );
    assert_eq!(domain.memory.owned.load(SeqCst), 16 + 512 - 16);
    assert_eq!(domain.p2m.lookup(Gfn(0x40f)).map(|e| e.order), Some(0));
    assert_eq!(domain.p2m.lookup(Gfn(0x41f)), None);
}

#[test]
fn a_direct_mapped_domain_gets_the_same_frames_back() {
    let (_, hv) = setup();
    let mut config = testing::config(1);
    config.direct_map = true;
    let domain = testing::domain_with(&hv, config, 4);
    let first = Mfn(0x4_0800);
    hv.allocate_for_at(&domain, first, 16).unwrap();
    domain
        .p2m
        .map(Gfn(first.0), first, 16, P2mType::RamRw, &hv.tables(&domain))
        .unwrap();
    let vcpu = testing::vcpu(&domain);
    let list = [0x4_0803, 0x4_0804];
    let owned = domain.memory.owned.load(SeqCst);
    assert_eq!(
        extents(&hv, &vcpu, MemoryOp::DecreaseReservation, &list, 0),
        2
    );
    assert_eq!(domain.p2m.lookup(Gfn(0x4_0803)), None);
    assert_eq!(extents(&hv, &vcpu, MemoryOp::PopulatePhysmap, &list, 0), 2);
    let mfn = |gfn| domain.p2m.lookup(Gfn(gfn)).map(|e| e.mfn);
    assert_eq!(mfn(0x4_0804), Some(Mfn(0x4_0804)));
    assert_eq!(domain.memory.owned.load(SeqCst), owned);
    // A frame that is not the domain's own is refused.
    assert_eq!(
        extents(&hv, &vcpu, MemoryOp::PopulatePhysmap, &[0x4_0900], 0),
        0
    );
    testing::destroy(&hv, &domain);
    assert_eq!(domain.life.state(), LifeState::Dead);
}

#[test]
fn bad_reservations_do_nothing_and_say_so() {
    let (_, hv) = setup();
    let domain = testing::domain(&hv, 1, 16);
    testing::domain(&hv, 2, 16);
    let vcpu = testing::vcpu(&domain);
    let good = Reservation {
        extent_start: GuestHandle::new(LIST),
        nr_extents: 1,
        domid: WireDomId::SELF,
        ..Reservation::default()
    };
    let bad = [
        Reservation {
            domid: WireDomId(2),
            ..good
        },
        Reservation {
            domid: WireDomId(9),
            ..good
        },
        Reservation {
            domid: WireDomId::XEN,
            ..good
        },
        Reservation {
            nr_extents: u64::MAX,
            ..good
        },
        Reservation {
            extent_order: u32::MAX,
            ..good
        },
        Reservation {
            mem_flags: MemFlags(12),
            ..good
        },
        Reservation {
            mem_flags: MemFlags(MemFlags::POPULATE_ON_DEMAND.0),
            ..good
        },
        Reservation {
            extent_start: GuestHandle::new(0xffff_0000_0000),
            ..good
        },
        Reservation {
            extent_start: GuestHandle::new(u64::MAX - 3),
            ..good
        },
    ];
    for bad in bad {
        assert_eq!(
            call(&hv, &vcpu, MemoryOp::PopulatePhysmap, &bad),
            0,
            "{bad:?}"
        );
    }
    let cmd = u64::from(MemoryOp::PopulatePhysmap.number()) | 5 << CMD_BITS;
    let unreadable = memory_op(
        Caller {
            hv: &hv,
            vcpu: &vcpu,
        },
        cmd,
        GuestVirt(1 << 40),
    );
    assert_eq!(unreadable, Outcome::Done(5));
}

fn add(hv: &Hypervisor<Sim>, vcpu: &VcpuRef<Sim>, space: MapSpace, idx: u64, gpfn: u64) -> i64 {
    let wanted = AddToPhysmap {
        domid: WireDomId::SELF,
        space: space.number(),
        idx,
        gpfn,
        ..AddToPhysmap::default()
    };
    call(hv, vcpu, MemoryOp::AddToPhysmap, &wanted)
}

fn remove(hv: &Hypervisor<Sim>, vcpu: &VcpuRef<Sim>, gpfn: u64) -> i64 {
    let wanted = RemoveFromPhysmap {
        domid: WireDomId::SELF,
        gpfn,
        ..RemoveFromPhysmap::default()
    };
    call(hv, vcpu, MemoryOp::RemoveFromPhysmap, &wanted)
}

#[test]
fn the_shared_info_is_shown_at_one_place() {
    let (_, hv) = setup();
    let domain = testing::domain(&hv, 1, 16);
    let vcpu = testing::vcpu(&domain);
    let errno = |e: Errno| e.neg() as i64;
    assert_eq!(
        add(&hv, &vcpu, MapSpace::SharedInfo, 1, 0x50),
        errno(Errno::EINVAL)
    );
    assert_eq!(add(&hv, &vcpu, MapSpace::SharedInfo, 0, 0x50), 0);
    let entry = domain.p2m.lookup(Gfn(0x50)).unwrap();
    assert_eq!(
        (entry.mfn, entry.kind),
        (domain.shared_info, P2mType::XenShared)
    );
    assert_eq!(
        add(&hv, &vcpu, MapSpace::SharedInfo, 0, 0x51),
        errno(Errno::EBUSY)
    );
    assert_eq!(remove(&hv, &vcpu, 0x50), 0);
    assert_eq!(remove(&hv, &vcpu, 0x50), errno(Errno::ENOENT));
    assert_eq!(add(&hv, &vcpu, MapSpace::SharedInfo, 0, 0x51), 0);
    // Replaced by memory, it may be shown again.
    assert_eq!(
        extents(&hv, &vcpu, MemoryOp::PopulatePhysmap, &[0x51], 0),
        1
    );
    assert_eq!(add(&hv, &vcpu, MapSpace::SharedInfo, 0, 0x52), 0);
    testing::destroy(&hv, &domain);
    assert_eq!(domain.life.state(), LifeState::Dead);
}

#[test]
fn spaces_that_arm_does_not_serve_are_answered_as_xen_does() {
    let (_, hv) = setup();
    let dom0 = testing::domain(&hv, 0, 16);
    let other = testing::domain(&hv, 1, 16);
    let (vcpu, plain) = (testing::vcpu(&dom0), testing::vcpu(&other));
    let errno = |e: Errno| e.neg() as i64;
    assert_eq!(
        add(&hv, &vcpu, MapSpace::Gmfn, 1, 0x50),
        errno(Errno::ENOSYS)
    );
    assert_eq!(
        add(&hv, &vcpu, MapSpace::GmfnForeign, 1, 0x50),
        errno(Errno::ENOSYS)
    );
    assert_eq!(add(&hv, &vcpu, MapSpace::GmfnRange, 1, 0x50), 0);
    assert_eq!(
        add(&hv, &plain, MapSpace::DevMmio, 1, 0x50),
        errno(Errno::EACCES)
    );
}

fn map_foreign(
    hv: &Hypervisor<Sim>,
    vcpu: &VcpuRef<Sim>,
    owner: u16,
    pages: &[(u64, u64)],
) -> (i64, Vec<i32>) {
    let (from, to): (Vec<_>, Vec<_>) = pages.iter().copied().unzip();
    place(hv, vcpu, LIST, &frames_as_words(&from));
    place(hv, vcpu, LIST2, &frames_as_words(&to));
    let wanted = AddToPhysmapBatch {
        domid: WireDomId::SELF,
        space: MapSpace::GmfnForeign.number() as u16,
        size: pages.len() as u16,
        foreign_domid: WireDomId(owner),
        idxs: GuestHandle::new(LIST),
        gpfns: GuestHandle::new(LIST2),
        errs: GuestHandle::new(LIST3),
    };
    let result = call(hv, vcpu, MemoryOp::AddToPhysmapBatch, &wanted);
    let caller = Caller { hv, vcpu };
    let errs = (0..pages.len() as u64)
        .map(|n| caller.read_at::<i32>(GuestVirt(LIST3), n).unwrap())
        .collect();
    (result, errs)
}

#[test]
fn foreign_pages_are_mapped_by_the_privileged_domain_only_and_each_holds_its_frame() {
    let (sim, hv) = setup();
    let dom0 = testing::domain(&hv, 0, 16);
    let guest = testing::domain(&hv, 1, 16);
    testing::domain(&hv, 2, 16);
    let (vcpu, plain) = (testing::vcpu(&dom0), testing::vcpu(&guest));
    sim.cpu_record(CpuId(0)).interrupt_after(0);
    let pages = [(3, 0x60), (99, 0x61), (4, 0x62)];
    let (result, errs) = map_foreign(&hv, &vcpu, 1, &pages);
    assert_eq!((result, errs), (0, vec![0, Errno::EINVAL.neg_i32(), 0]));
    let mfn = guest.p2m.lookup(Gfn(3)).unwrap().mfn;
    let refs = || hv.memory.record(mfn).unwrap().state().count();
    assert_eq!(refs(), 2);
    // Mapping another one over it, memory over it, or taking it out lets go.
    map_foreign(&hv, &vcpu, 1, &[(5, 0x60)]);
    assert_eq!(refs(), 1);
    map_foreign(&hv, &vcpu, 1, &[(3, 0x60), (3, 0x61)]);
    assert_eq!(refs(), 3);
    extents(&hv, &vcpu, MemoryOp::PopulatePhysmap, &[0x60], 0);
    assert_eq!(refs(), 2);
    assert_eq!(
        extents(&hv, &vcpu, MemoryOp::DecreaseReservation, &[0x61], 0),
        0,
        "a foreign page is not the domain's to give back"
    );
    assert_eq!(remove(&hv, &vcpu, 0x61), 0);
    assert_eq!(refs(), 1);

    let (_, errs) = map_foreign(&hv, &plain, 2, &[(3, 0x60)]);
    assert_eq!(errs, [Errno::EPERM.neg_i32()]);
    let (_, errs) = map_foreign(&hv, &vcpu, 0, &[(3, 0x63)]);
    assert_eq!(errs, [Errno::ESRCH.neg_i32()]);
    let (_, errs) = map_foreign(&hv, &vcpu, 9, &[(3, 0x63)]);
    assert_eq!(errs, [Errno::ESRCH.neg_i32()]);

    map_foreign(&hv, &vcpu, 1, &[(3, 0x60)]);
    sim.cpu_record(CpuId(0)).clear_interrupt();
    testing::destroy(&hv, &guest);
    assert_eq!(guest.life.state(), LifeState::Dying);
    remove(&hv, &vcpu, 0x60);
    remove(&hv, &vcpu, 0x62);
    assert_eq!(guest.life.state(), LifeState::Dead);
}

#[test]
fn the_control_domain_may_end_a_dead_domain_with_its_own_memory_call_and_is_told() {
    let (_sim, hv) = setup();
    let dom0 = testing::domain(&hv, 0, 16);
    let vcpu = testing::vcpu(&dom0);
    let virq = xenolith_abi::virq::Virq::DomExc.number();
    let port = hv.bind_virq(&dom0, virq, 0).unwrap();
    type LetsGo = fn(&Hypervisor<Sim>, &VcpuRef<Sim>) -> i64;
    let lets_go: [LetsGo; 4] = [
        |hv, vcpu| remove(hv, vcpu, 0x60),
        |hv, vcpu| map_foreign(hv, vcpu, 2, &[(3, 0x60)]).0,
        |hv, vcpu| extents(hv, vcpu, MemoryOp::PopulatePhysmap, &[0x60], 0),
        |hv, vcpu| add(hv, vcpu, MapSpace::GrantTable, 0, 0x60),
    ];
    testing::domain(&hv, 2, 16);
    for let_go in lets_go {
        let guest = testing::domain(&hv, 1, 16);
        map_foreign(&hv, &vcpu, 1, &[(3, 0x60)]);
        testing::destroy(&hv, &guest);
        assert_eq!(guest.life.state(), LifeState::Dying);
        assert!(let_go(&hv, &vcpu) >= 0);
        assert_eq!(guest.life.state(), LifeState::Dead);
        assert_eq!(hv.any_pending(&dom0, [port]), Ok(true));
    }
}

#[test]
fn a_direct_mapped_domain_does_not_get_its_grant_frames_as_memory() {
    let (_sim, hv) = setup();
    let config = crate::domain::DomainConfig {
        direct_map: true,
        ..testing::config(0)
    };
    let dom0 = testing::domain_with(&hv, config, 16);
    let vcpu = testing::vcpu(&dom0);
    let frames = [
        dom0.shared_info,
        hv.grant_frame_for_physmap(&dom0, 0, Gfn(0x60)).unwrap(),
    ];
    for mfn in frames {
        let done = extents(&hv, &vcpu, MemoryOp::PopulatePhysmap, &[mfn.0], 0);
        assert_eq!(done, 0);
        assert_eq!(dom0.p2m.lookup(Gfn(mfn.0)), None);
    }
}

#[test]
fn questions_are_answered_about_oneself_and_by_the_privileged_domain_about_others() {
    let (_, hv) = setup();
    let dom0 = testing::domain(&hv, 0, 3);
    let guest = testing::domain(&hv, 1, 16);
    let (vcpu, plain) = (testing::vcpu(&dom0), testing::vcpu(&guest));
    let ask = |vcpu, op, id| {
        let domain = MemoryDomain {
            domid: WireDomId(id),
        };
        call(&hv, vcpu, op, &domain)
    };
    assert_eq!(ask(&plain, MemoryOp::CurrentReservation, 0x7ff0), 16);
    assert_eq!(ask(&plain, MemoryOp::MaximumReservation, 1), 1024);
    assert_eq!(
        ask(&plain, MemoryOp::CurrentReservation, 0),
        Errno::EPERM.neg() as i64
    );
    assert_eq!(
        ask(&vcpu, MemoryOp::CurrentReservation, 7),
        Errno::ESRCH.neg() as i64
    );
    assert_eq!(ask(&vcpu, MemoryOp::MaximumGpfn, 1), 15);
    extents(&hv, &plain, MemoryOp::PopulatePhysmap, &[0x12345], 0);
    assert_eq!(ask(&vcpu, MemoryOp::MaximumGpfn, 1), 0x12345);
    assert_eq!(call(&hv, &vcpu, MemoryOp::MaximumRamPage, &0_u64), 0x4_1000);
}

#[test]
fn a_tool_maps_the_grant_table_of_a_guest_and_holds_its_frame() {
    let (_, hv) = setup();
    let dom0 = testing::domain(&hv, 0, 16);
    let guest = testing::domain(&hv, 1, 16);
    let (vcpu, plain) = (testing::vcpu(&dom0), testing::vcpu(&guest));
    let errno = |e: Errno| e.neg() as i64;
    assert_eq!(add(&hv, &plain, MapSpace::GrantTable, 0, 0x50), 0);
    assert_eq!(add(&hv, &plain, MapSpace::GrantTable, 0, 0x51), 0);
    assert_eq!(guest.p2m.lookup(Gfn(0x50)), None, "it moves");
    place(&hv, &vcpu, LIST, &0x70_u64);
    let wanted = AcquireResource {
        domid: WireDomId(1),
        kind: 1,
        nr_frames: 1,
        frame_list: GuestHandle::new(LIST),
        ..AcquireResource::default()
    };
    assert_eq!(call(&hv, &vcpu, MemoryOp::AcquireResource, &wanted), 0);
    let frame = guest.p2m.lookup(Gfn(0x51)).unwrap().mfn;
    let entry = dom0.p2m.lookup(Gfn(0x70)).unwrap();
    assert_eq!((entry.mfn, entry.kind), (frame, P2mType::ForeignRw));
    let denied = AcquireResource {
        domid: WireDomId(0),
        ..wanted
    };
    let denied = call(&hv, &plain, MemoryOp::AcquireResource, &denied);
    assert_eq!(denied, errno(Errno::EPERM));
    testing::destroy(&hv, &guest);
    assert_eq!(guest.life.state(), LifeState::Dying);
    testing::destroy(&hv, &dom0);
    assert_eq!(guest.life.state(), LifeState::Dead);
}

#[test]
fn any_number_of_operation_with_any_argument_gets_an_answer() {
    use crate::memory::tests::Random;
    let (sim, hv) = setup();
    let dom0 = testing::domain(&hv, 0, 16);
    let guest = testing::domain(&hv, 1, 64);
    let before = hv.memory.free_frames();
    let mut random = Random(4711);
    let total = hv.memory.free_frames();
    sim.cpu_record(CpuId(0)).interrupt_after(0);
    for step in 0..20_000_u64 {
        let vcpu = testing::vcpu(if step % 2 == 0 { &dom0 } else { &guest });
        let caller = Caller {
            hv: &hv,
            vcpu: &vcpu,
        };
        for word in 0..12 {
            let value = match random.below(5) {
                0 => random.next(),
                1 => random.below(32),
                2 => 0x1000 + random.below(64) * 8,
                3 => random.below(3) | random.below(8) << 16 | random.below(4) << 32,
                _ => 0x7ff0,
            };
            let _ = caller.write_at(GuestVirt(ARG), word, &value);
            let _ = caller.write_at(GuestVirt(LIST), random.below(64), &random.below(256));
        }
        let cmd = random.below(32) | (random.below(2) * random.below(4)) << CMD_BITS;
        let _ = memory_op(
            caller,
            cmd,
            GuestVirt(ARG + random.below(2) * random.next()),
        );
        if step % 500 == 0 {
            // Guests shoot their own argument pages: give them back.
            for domain in [&dom0, &guest] {
                for gfn in 0..4 {
                    if domain.p2m.lookup(Gfn(gfn)).is_none() {
                        let _ = hv.populate(domain, Gfn(gfn), 0, Place::ANY);
                    }
                }
            }
        }
        assert!(hv.memory.free_frames() <= total + 80);
    }
    sim.cpu_record(CpuId(0)).clear_interrupt();
    testing::destroy(&hv, &guest);
    testing::destroy(&hv, &dom0);
    assert_eq!(dom0.life.state(), LifeState::Dead);
    assert_eq!(guest.life.state(), LifeState::Dead);
    assert!(hv.memory.free_frames() > before);
    assert_eq!(hv.memory.free_frames(), hv.memory.table().frames());
}
