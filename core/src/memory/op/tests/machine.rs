//! `memory_op` as a paravirtual guest sees it: in machine frames.

use xenolith_abi::memory::{Exchange, MachphysMapping, MachphysMfnList};

use super::*;
use crate::DomainRef;

/// A guest with 64 pages, the rest of memory free.
fn guest() -> (Sim, Hypervisor<Sim>, DomainRef<Sim>, VcpuRef<Sim>) {
    let (sim, hv) = setup();
    let domain = testing::pv(&hv, 1, 64);
    let vcpu = testing::vcpu(&domain);
    (sim, hv, domain, vcpu)
}

fn owned(domain: &DomainRef<Sim>) -> u64 {
    domain.memory.owned.load(SeqCst)
}

fn words(hv: &Hypervisor<Sim>, vcpu: &VcpuRef<Sim>, at: u64) -> [u64; 64] {
    let mut words = [0; 64];
    Caller { hv, vcpu }
        .read_bytes(GuestVirt(at), words.as_mut_bytes())
        .unwrap();
    words
}

fn machine_frames(domain: &DomainRef<Sim>, pages: core::ops::Range<u64>) -> Vec<u64> {
    pages.map(|page| testing::mfn_at(domain, page).0).collect()
}

fn exchange(orders: (u32, u32), extents: (u64, u64)) -> Exchange {
    let list = |at, (order, count)| Reservation {
        extent_start: GuestHandle::new(at),
        nr_extents: count,
        extent_order: order,
        domid: WireDomId::SELF,
        ..Reservation::default()
    };
    Exchange {
        input: list(LIST, (orders.0, extents.0)),
        output: list(LIST2, (orders.1, extents.1)),
        nr_exchanged: 0,
    }
}

fn done(hv: &Hypervisor<Sim>, vcpu: &VcpuRef<Sim>) -> u64 {
    let caller = Caller { hv, vcpu };
    caller
        .read::<Exchange>(GuestVirt(ARG))
        .unwrap()
        .nr_exchanged
}

#[test]
fn new_memory_is_told_by_machine_frame_and_stands_in_the_table() {
    let (_, hv, domain, vcpu) = guest();
    let up = extents(&hv, &vcpu, MemoryOp::PopulatePhysmap, &[500, 900], 0);
    assert_eq!(up, 2);
    let told = words(&hv, &vcpu, LIST);
    for (pfn, mfn) in [500, 900].into_iter().zip(told) {
        let record = hv.memory.record(Mfn(mfn)).unwrap();
        assert!(record.state().is_owned_by(domain.id()));
        assert_eq!(hv.hal.machine_to_phys(Mfn(mfn)), Some(Gfn(pfn)));
    }
    let up = extents(&hv, &vcpu, MemoryOp::IncreaseReservation, &[0], 1);
    assert_eq!(up, 1);
    let first = Mfn(words(&hv, &vcpu, LIST)[0]);
    assert_eq!(hv.hal.machine_to_phys(first), None);
    assert!(
        hv.memory
            .record(first.plus(1))
            .unwrap()
            .state()
            .is_owned_by(domain.id())
    );
    assert_eq!(owned(&domain), 64 + 4);
}

#[test]
fn memory_goes_by_machine_frame_and_leaves_the_table() {
    let (_, hv, domain, vcpu) = guest();
    let free = hv.memory.free_frames();
    let given = machine_frames(&domain, 20..22);
    let down = extents(&hv, &vcpu, MemoryOp::DecreaseReservation, &given, 0);
    assert_eq!((down, owned(&domain)), (2, 62));
    assert_eq!(hv.memory.free_frames(), free + 2);
    assert_eq!(hv.hal.machine_to_phys(Mfn(given[0])), None);
    assert_eq!(hv.hal.forgotten(), given);
    // Twice, a page of another domain, hypervisor memory, no memory at all.
    let other = testing::mfn_at(&testing::pv(&hv, 2, 1), 0).0;
    for frame in [given[0], other, domain.shared_info.0, 3, u64::MAX] {
        let down = extents(&hv, &vcpu, MemoryOp::DecreaseReservation, &[frame], 0);
        assert_eq!(down, 0, "{frame:#x}");
    }
    assert_eq!(owned(&domain), 62);
}

#[test]
fn a_frame_in_use_stays_until_its_last_use_ends() {
    let (_, hv, domain, vcpu) = guest();
    let mfn = testing::mfn_at(&domain, 20);
    let used = hv.get_writable(mfn, &domain).unwrap();
    let down = extents(&hv, &vcpu, MemoryOp::DecreaseReservation, &[mfn.0], 0);
    assert_eq!((down, owned(&domain)), (1, 64));
    assert!(hv.hal.machine_to_phys(mfn).is_some());
    drop(used);
    assert_eq!(owned(&domain), 63);
    assert_eq!(hv.hal.machine_to_phys(mfn), None);
    assert_eq!(hv.hal.forgotten(), [mfn.0]);
}

#[test]
fn single_frames_are_exchanged_for_a_contiguous_block_and_back() {
    let (_, hv, domain, vcpu) = guest();
    let given = machine_frames(&domain, 16..32);
    place(&hv, &vcpu, LIST, &frames_as_words(&given));
    place(&hv, &vcpu, LIST2, &frames_as_words(&[700]));
    let wanted = exchange((0, 4), (16, 1));
    assert_eq!(call(&hv, &vcpu, MemoryOp::Exchange, &wanted), 0);
    assert_eq!(done(&hv, &vcpu), 16);
    let block = Mfn(words(&hv, &vcpu, LIST2)[0]);
    assert_eq!(block.0 % 16, 0);
    for n in 0..16 {
        let mfn = block.plus(n);
        assert!(
            hv.memory
                .record(mfn)
                .unwrap()
                .state()
                .is_owned_by(domain.id())
        );
        assert_eq!(hv.hal.machine_to_phys(mfn), Some(Gfn(700 + n)));
        assert_eq!(hv.hal.machine_to_phys(Mfn(given[n as usize])), None);
    }
    assert_eq!(owned(&domain), 64);
    let free = hv.memory.free_frames();
    place(&hv, &vcpu, LIST, &frames_as_words(&[block.0]));
    let pfns: Vec<_> = (800..816).collect();
    place(&hv, &vcpu, LIST2, &frames_as_words(&pfns));
    let wanted = exchange((4, 0), (1, 16));
    assert_eq!(call(&hv, &vcpu, MemoryOp::Exchange, &wanted), 0);
    let told = words(&hv, &vcpu, LIST2);
    assert_eq!(hv.hal.machine_to_phys(Mfn(told[15])), Some(Gfn(815)));
    assert_eq!((owned(&domain), hv.memory.free_frames()), (64, free));
}

#[test]
fn a_long_exchange_is_interrupted_between_chunks_and_goes_on() {
    let (sim, hv, domain, vcpu) = guest();
    let given = machine_frames(&domain, 16..48);
    place(&hv, &vcpu, LIST, &frames_as_words(&given));
    place(
        &hv,
        &vcpu,
        LIST2,
        &frames_as_words(&[700, 704, 708, 712, 716, 720, 724, 728]),
    );
    let wanted = exchange((0, 2), (32, 8));
    let arg = place(&hv, &vcpu, ARG, &wanted);
    sim.cpu_record(CpuId(0)).interrupt_after(0);
    let caller = Caller {
        hv: &hv,
        vcpu: &vcpu,
    };
    let cmd = u64::from(MemoryOp::Exchange.number());
    for n in 1..8 {
        let again = memory_op(caller, cmd, arg);
        assert_eq!(again, Outcome::Again([cmd, arg.0, 0, 0, 0]));
        assert_eq!(done(&hv, &vcpu), n * 4);
    }
    assert_eq!(memory_op(caller, cmd, arg), Outcome::Done(0));
    assert_eq!((done(&hv, &vcpu), owned(&domain)), (32, 64));
}

#[test]
fn a_chunk_is_exchanged_whole_or_not_at_all() {
    let (_, hv, domain, vcpu) = guest();
    let given = machine_frames(&domain, 16..24);
    let free = hv.memory.free_frames();
    // The sixth is a page table, and once it is not, somebody looks at the seventh.
    testing::make_table(&hv, &domain, Mfn(given[5]));
    let try_it = || {
        place(&hv, &vcpu, LIST, &frames_as_words(&given));
        place(&hv, &vcpu, LIST2, &frames_as_words(&[700, 704]));
        call(&hv, &vcpu, MemoryOp::Exchange, &exchange((0, 2), (8, 2)))
    };
    assert_eq!(try_it(), Errno::EINVAL.neg() as i64);
    assert_eq!(done(&hv, &vcpu), 4);
    for mfn in given.iter().skip(4) {
        let state = hv.memory.record(Mfn(*mfn)).unwrap().state();
        assert!(state.is_owned_by(domain.id()) && state.allocated());
    }
    testing::end_table(&hv, Mfn(given[5]));
    let held = hv.get_frame(Mfn(given[6]), domain.id()).unwrap();
    assert_eq!(try_it(), Errno::EINVAL.neg() as i64);
    assert_eq!(done(&hv, &vcpu), 0, "the first four went before");
    drop(held);
    assert_eq!((owned(&domain), hv.memory.free_frames()), (64, free));
}

#[test]
fn bad_exchanges_are_refused() {
    let (_, hv, domain, vcpu) = guest();
    let invalid = Errno::EINVAL.neg() as i64;
    let run = |wanted: &Exchange| call(&hv, &vcpu, MemoryOp::Exchange, wanted);
    assert_eq!(run(&exchange((0, 2), (16, 3))), invalid);
    let too_large = Errno::EPERM.neg() as i64;
    assert_eq!(run(&exchange((0, 10), (1024, 1))), too_large);
    // That is told first.
    assert_eq!(run(&exchange((0, 64), (16, 3))), too_large);
    let given = machine_frames(&domain, 16..17);
    place(&hv, &vcpu, LIST, &frames_as_words(&[given[0], given[0]]));
    assert_eq!(run(&exchange((0, 1), (2, 1))), invalid, "one frame twice");
    place(&hv, &vcpu, LIST, &frames_as_words(&[given[0]]));
    let mut narrow = exchange((0, 0), (1, 1));
    narrow.output.mem_flags = MemFlags(20);
    assert_eq!(run(&narrow), Errno::ENOMEM.neg() as i64);
    let mut nowhere = exchange((0, 0), (1, 1));
    nowhere.output.extent_start = GuestHandle::new(0x100_0000);
    assert_eq!(run(&nowhere), Errno::EFAULT.neg() as i64);
    let state = hv.memory.record(Mfn(given[0])).unwrap().state();
    assert!(state.is_owned_by(domain.id()), "it was not taken");
    assert_eq!(owned(&domain), 64);
}

#[test]
fn there_is_no_physical_map_to_change() {
    let (_, hv, _, vcpu) = guest();
    let denied = Errno::EACCES.neg() as i64;
    for space in [0, 1, 2, 3, 5, 77] {
        let wanted = AddToPhysmap {
            domid: WireDomId::SELF,
            space,
            ..AddToPhysmap::default()
        };
        assert_eq!(call(&hv, &vcpu, MemoryOp::AddToPhysmap, &wanted), denied);
    }
    let batch = AddToPhysmapBatch {
        domid: WireDomId::SELF,
        ..AddToPhysmapBatch::default()
    };
    assert_eq!(
        call(&hv, &vcpu, MemoryOp::AddToPhysmapBatch, &batch),
        denied
    );
    let remove = RemoveFromPhysmap {
        domid: WireDomId::SELF,
        ..RemoveFromPhysmap::default()
    };
    assert_eq!(
        call(&hv, &vcpu, MemoryOp::RemoveFromPhysmap, &remove),
        denied
    );
}

#[test]
fn the_table_of_the_machine_is_told_to_those_who_read_it() {
    let (_, hv, _, vcpu) = guest();
    let asked = MachphysMapping::default();
    assert_eq!(call(&hv, &vcpu, MemoryOp::MachphysMapping, &asked), 0);
    let caller = Caller {
        hv: &hv,
        vcpu: &vcpu,
    };
    let mapping: MachphysMapping = caller.read(GuestVirt(ARG)).unwrap();
    assert_eq!(Some(mapping), hv.hal.machphys_mapping());
    let list = MachphysMfnList {
        max_extents: 64,
        extent_start: GuestHandle::new(LIST),
        ..MachphysMfnList::default()
    };
    assert_eq!(call(&hv, &vcpu, MemoryOp::MachphysMfnList, &list), 0);
    let told: MachphysMfnList = caller.read(GuestVirt(ARG)).unwrap();
    assert_eq!(told.nr_extents, 2);
    assert_eq!(
        Some(Mfn(words(&hv, &vcpu, LIST)[1])),
        hv.hal.machphys_frame(1)
    );

    let other = testing::vcpu(&testing::domain(&hv, 2, 16));
    let gone = Errno::ENOSYS.neg() as i64;
    assert_eq!(call(&hv, &other, MemoryOp::MachphysMapping, &asked), gone);
    assert_eq!(call(&hv, &other, MemoryOp::MachphysMfnList, &list), gone);
    // Not begun in its middle, where there is none.
    for op in [MemoryOp::MachphysMapping, MemoryOp::MachphysMfnList] {
        let cmd = u64::from(op.number()) | 5 << CMD_BITS;
        assert_eq!(memory_op(caller, cmd, GuestVirt(ARG)), Outcome::Done(gone));
    }
}

#[test]
fn a_guest_says_itself_how_many_pages_it_counts() {
    let (_, hv, domain, vcpu) = guest();
    let asked = MemoryDomain {
        domid: WireDomId::SELF,
    };
    assert_eq!(call(&hv, &vcpu, MemoryOp::MaximumGpfn, &asked), 0);
    let at = domain.info_layout().arch;
    hv.hal
        .write_frame(domain.shared_info, at, &64u64.to_le_bytes())
        .unwrap();
    assert_eq!(call(&hv, &vcpu, MemoryOp::MaximumGpfn, &asked), 63);
    assert_eq!(call(&hv, &vcpu, MemoryOp::CurrentReservation, &asked), 64);
    assert_eq!(
        call(&hv, &vcpu, MemoryOp::MaximumRamPage, &asked),
        hv.memory.table().end().0 as i64
    );
}

#[test]
fn the_machines_memory_map_is_for_the_control_domain() {
    let (_, hv, _, vcpu) = guest();
    let asked = xenolith_abi::memory::MemoryMap {
        nr_entries: 1,
        buffer: GuestHandle::new(LIST),
        ..Default::default()
    };
    let op = MemoryOp::MachineMemoryMap;
    assert_eq!(call(&hv, &vcpu, op, &asked), Errno::EPERM.neg() as i64);
    let dom0 = testing::vcpu(&testing::pv(&hv, 0, 8));
    assert_eq!(call(&hv, &dom0, op, &asked), 0);
    let none = xenolith_abi::memory::MemoryMap {
        nr_entries: 0,
        ..asked
    };
    assert_eq!(call(&hv, &dom0, op, &none), Errno::EINVAL.neg() as i64);
}

#[test]
fn a_dying_domain_gives_back_all_it_was_given() {
    let (_, hv) = setup();
    let before = hv.memory.free_frames();
    let domain = testing::pv(&hv, 1, 64);
    let vcpu = testing::vcpu(&domain);
    let last = testing::mfn_at(&domain, 63);
    hv.register_vcpu_info(&vcpu, Gfn(last.0), 0).unwrap();
    let held = hv
        .get_writable(testing::mfn_at(&domain, 20), &domain)
        .unwrap();
    testing::destroy(&hv, &domain);
    assert_eq!(hv.memory.free_frames(), before - 1);
    assert!(hv.domains.get(domain.id()).is_some());
    drop(held);
    assert_eq!(hv.memory.free_frames(), before);
    assert!(hv.domains.get(domain.id()).is_none());
    assert_eq!(domain.life.state(), LifeState::Dead);
}
