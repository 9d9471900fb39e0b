//! Grants through the hypercall, on a simulated machine.

use alloc::{string::ToString, vec, vec::Vec};

use xenolith_abi::{
    DomId, Errno, GrantHandle, GrantRef, GuestHandle,
    grant_table::{
        CacheFlags, CacheFlush, CopyFlags, CopyPtr, EntryFlags, EntryV1, GetStatusFrames,
        GetVersion, GrantCopy, GrantStatus, GrantTableOp as Op, MapFlags, MapGrantRef, QuerySize,
        SetVersion, SetupTable, SwapGrantRef, Transfer, UnmapAndReplace, UnmapGrantRef, entry_type,
    },
};
use xenolith_hal::{AtomicOp::Load, CpuId, Gfn, GuestVirt, Hal, Mfn, P2m, P2mType};
use xenolith_sim::Sim;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{GrantFacts, MappingFacts, Released, grant_table_op};
use crate::{
    DomainRef, Hypervisor, VcpuRef,
    guest::Caller,
    hypercall::{NoRows, Outcome},
    testing,
};

mod pv;
mod random;
mod v2;

const ARGS: GuestVirt = GuestVirt(0x1000);
/// Where guests see their table.
const TABLE: u64 = 0x100;
/// A guest frame that is free for mappings.
const WINDOW: u64 = 0x200;
const PAGE: u64 = 4096;
const RW: MapFlags = MapFlags::HOST_MAP;
const RO: MapFlags = MapFlags::HOST_MAP.union(MapFlags::READONLY);

/// A machine with a privileged domain 0 and plain domains 1 and 2 of 16 frames each; each sees its grant table.
struct Rig {
    hv: Hypervisor<Sim>,
    domains: Vec<DomainRef<Sim>>,
}

impl Rig {
    fn new() -> Self {
        let hv = testing::hypervisor(&Sim::small());
        let domains: Vec<_> = (0..3).map(|id| testing::domain(&hv, id, 16)).collect();
        for domain in &domains {
            let gfn = Gfn(TABLE);
            let mfn = hv.grant_frame_for_physmap(domain, 0, gfn).unwrap();
            let tables = hv.tables(domain);
            domain
                .p2m
                .map(gfn, mfn, 1, P2mType::XenShared, &tables)
                .unwrap();
        }
        Self { hv, domains }
    }

    fn vcpu(&self, domain: usize) -> VcpuRef<Sim> {
        testing::vcpu(&self.domains[domain])
    }

    fn poke<T: IntoBytes + Immutable>(&self, domain: usize, at: u64, value: &T) {
        let vcpu = self.vcpu(domain);
        let caller = Caller {
            hv: &self.hv,
            vcpu: &vcpu,
        };
        caller.write_bytes(GuestVirt(at), value.as_bytes()).unwrap();
    }

    fn peek<T: FromBytes + IntoBytes>(&self, domain: usize, at: u64) -> Result<T, Errno> {
        let vcpu = self.vcpu(domain);
        let caller = Caller {
            hv: &self.hv,
            vcpu: &vcpu,
        };
        let mut value = T::new_zeroed();
        caller.read_bytes(GuestVirt(at), value.as_mut_bytes())?;
        Ok(value)
    }

    fn raw(&self, domain: usize, cmd: u64, arg: GuestVirt, count: u64) -> Outcome {
        let vcpu = self.vcpu(domain);
        let caller = Caller {
            hv: &self.hv,
            vcpu: &vcpu,
        };
        grant_table_op::<_, NoRows>(caller, cmd, arg, count)
    }

    /// Makes the hypercall for one element; gives back the element as the call left it.
    fn call<T>(&self, domain: usize, op: Op, args: T) -> Result<T, Errno>
    where
        T: FromBytes + IntoBytes + Immutable,
    {
        self.poke(domain, ARGS.0, &args);
        match self.raw(domain, op.number().into(), ARGS, 1) {
            Outcome::Done(0) => self.peek(domain, ARGS.0),
            Outcome::Done(negative) => Err(Errno::from_result(negative as isize).unwrap()),
            Outcome::Again(_) => panic!("not expected to be preempted"),
        }
    }

    fn entry_at(gref: u32) -> u64 {
        TABLE * PAGE + u64::from(gref) * 8
    }

    /// The granter writes an entry.
    fn grant(&self, granter: usize, gref: u32, to: u16, frame: u32, flags: EntryFlags) {
        let entry = EntryV1 {
            flags: EntryFlags(flags.0 | entry_type::PERMIT_ACCESS),
            domid: DomId(to),
            frame,
        };
        self.poke(granter, Self::entry_at(gref), &entry);
    }

    /// What the hypervisor shows the granter of an entry.
    fn marks(&self, granter: usize, gref: u32) -> EntryFlags {
        let entry: EntryV1 = self.peek(granter, Self::entry_at(gref)).unwrap();
        entry.flags & (EntryFlags::READING | EntryFlags::WRITING)
    }

    fn map_at(
        &self,
        mapper: usize,
        granter: u16,
        gref: u32,
        gfn: u64,
        flags: MapFlags,
    ) -> Result<GrantHandle, GrantStatus> {
        let args = MapGrantRef {
            host_addr: gfn * PAGE,
            flags,
            gref: GrantRef(gref),
            dom: DomId(granter),
            ..Default::default()
        };
        let done = self.call(mapper, Op::MapGrantRef, args).unwrap();
        checked(done.status).map(|()| done.handle)
    }

    fn map(&self, gref: u32, flags: MapFlags) -> Result<GrantHandle, GrantStatus> {
        self.map_at(2, 1, gref, WINDOW, flags)
    }

    fn unmap_at(&self, mapper: usize, handle: GrantHandle, gfn: u64) -> Result<(), GrantStatus> {
        let args = UnmapGrantRef {
            host_addr: gfn * PAGE,
            handle,
            ..Default::default()
        };
        checked(self.call(mapper, Op::UnmapGrantRef, args).unwrap().status)
    }

    fn unmap(&self, handle: GrantHandle) -> Result<(), GrantStatus> {
        self.unmap_at(2, handle, WINDOW)
    }

    fn copy(&self, caller: usize, op: GrantCopy) -> Result<(), GrantStatus> {
        checked(self.call(caller, Op::Copy, op).unwrap().status)
    }

    /// References on the frame behind a guest frame.
    fn references(&self, domain: usize, gfn: u64) -> u64 {
        let mfn = self.domains[domain].p2m.lookup(Gfn(gfn)).unwrap().mfn;
        self.hv.memory.record(mfn).unwrap().state().count()
    }
}

fn checked(status: i16) -> Result<(), GrantStatus> {
    match GrantStatus::try_from(status).unwrap() {
        GrantStatus::Okay => Ok(()),
        other => Err(other),
    }
}

fn granted(dom: u16, gref: u32, offset: u16) -> CopyPtr {
    CopyPtr {
        gref_or_gfn: gref.into(),
        domid: DomId(dom),
        offset,
        ..Default::default()
    }
}

fn own(gfn: u64, offset: u16) -> CopyPtr {
    CopyPtr {
        gref_or_gfn: gfn,
        domid: DomId::SELF,
        offset,
        ..Default::default()
    }
}

/// From grant 3 of domain 1 into the caller's own guest frame 4.
fn copy_in() -> GrantCopy {
    GrantCopy {
        source: granted(1, 3, 0),
        dest: own(4, 0),
        len: 8,
        flags: CopyFlags::SOURCE_GREF,
        ..Default::default()
    }
}

#[test]
fn shared_info_under_a_grant_mapping_can_be_shown_elsewhere_again() {
    use xenolith_abi::memory::{AddToPhysmap, MapSpace, MemoryOp};
    let rig = Rig::new();
    let vcpu = rig.vcpu(2);
    let show = |gpfn| {
        let args = AddToPhysmap {
            domid: DomId::SELF,
            size: 0,
            space: MapSpace::SharedInfo.number(),
            idx: 0,
            gpfn,
        };
        rig.poke(2, ARGS.0, &args);
        let caller = Caller {
            hv: &rig.hv,
            vcpu: &vcpu,
        };
        crate::memory::op::memory_op(caller, MemoryOp::AddToPhysmap.number().into(), ARGS)
    };
    assert_eq!(show(WINDOW), Outcome::Done(0));
    rig.grant(1, 9, 2, 3, EntryFlags::empty());
    let handle = rig.map(9, RW).unwrap();
    let shared_info = rig.domains[2].shared_info;
    let shown = || rig.hv.memory.record(shared_info).unwrap().shown_at();
    assert_eq!(shown(), None);
    assert_eq!(show(WINDOW + 1), Outcome::Done(0));
    assert_eq!(shown(), Some(Gfn(WINDOW + 1)));
    assert_eq!(rig.unmap(handle), Ok(()));
}

#[test]
fn a_mapped_grant_is_the_granters_memory_until_unmapped() {
    let rig = Rig::new();
    rig.grant(1, 3, 2, 5, EntryFlags::empty());
    let handle = rig.map(3, RW).unwrap();
    rig.poke(2, WINDOW * PAGE + 8, &0xfeed_u64);
    assert_eq!(rig.peek(1, 5 * PAGE + 8), Ok(0xfeed_u64));
    assert_eq!(rig.marks(1, 3), EntryFlags::READING | EntryFlags::WRITING);
    assert_eq!(rig.references(1, 5), 2);
    rig.unmap(handle).unwrap();
    assert_eq!(rig.peek::<u64>(2, WINDOW * PAGE), Err(Errno::EFAULT));
    assert_eq!(rig.marks(1, 3), EntryFlags::empty());
    assert_eq!(rig.references(1, 5), 1);
    assert_eq!(rig.unmap(handle), Err(GrantStatus::BadHandle));
}

#[test]
fn a_read_only_mapping_can_only_be_read() {
    let rig = Rig::new();
    rig.grant(1, 3, 2, 5, EntryFlags::READONLY);
    assert_eq!(rig.map(3, RW), Err(GrantStatus::GeneralError));
    assert_eq!(rig.marks(1, 3), EntryFlags::empty());
    let handle = rig.map(3, RO).unwrap();
    assert_eq!(rig.marks(1, 3), EntryFlags::READING);
    let entry = rig.domains[2].p2m.lookup(Gfn(WINDOW)).unwrap();
    assert_eq!(entry.kind, P2mType::GrantRo);
    rig.unmap(handle).unwrap();
}

#[test]
fn marks_follow_the_last_of_many_mappings() {
    let rig = Rig::new();
    rig.grant(1, 3, 2, 5, EntryFlags::empty());
    let read = rig.map_at(2, 1, 3, WINDOW, RO).unwrap();
    let write = rig.map_at(2, 1, 3, WINDOW + 1, RW).unwrap();
    assert_eq!(rig.references(1, 5), 2);
    rig.unmap_at(2, write, WINDOW + 1).unwrap();
    assert_eq!(rig.marks(1, 3), EntryFlags::READING);
    rig.unmap_at(2, read, WINDOW).unwrap();
    assert_eq!(rig.marks(1, 3), EntryFlags::empty());
    assert_eq!(rig.references(1, 5), 1);
}

#[test]
fn a_map_that_cannot_be_says_why() {
    let rig = Rig::new();
    use GrantStatus::*;
    let map = |dom, gref, flags| rig.map_at(2, dom, gref, WINDOW, flags).map(drop);
    rig.grant(1, 3, 2, 5, EntryFlags::empty());
    assert_eq!(map(1, 3, MapFlags::READONLY), Err(BadGntref));
    for extra in [
        MapFlags::DEVICE_MAP,
        MapFlags::APPLICATION_MAP,
        MapFlags::CONTAINS_PTE,
        MapFlags(1 << 16),
    ] {
        assert_eq!(map(1, 3, RW | extra), Err(GeneralError));
    }
    assert_eq!(map(9, 3, RW), Err(BadDomain));
    assert_eq!(map(DomId::SELF.0, 3, RW), Err(BadDomain));
    assert_eq!(map(1, 512, RW), Err(BadGntref));
    assert_eq!(map(1, u32::MAX, RW), Err(BadGntref));
    // Nothing granted there; granted to another; part of a page; x86 attributes; no memory behind it.
    assert_eq!(map(1, 4, RW), Err(GeneralError));
    rig.grant(1, 5, 0, 5, EntryFlags::empty());
    assert_eq!(map(1, 5, RW), Err(GeneralError));
    rig.grant(1, 6, 2, 5, EntryFlags::SUB_PAGE);
    assert_eq!(map(1, 6, RW), Err(GeneralError));
    rig.grant(1, 7, 2, 5, EntryFlags::PCD);
    assert_eq!(map(1, 7, RW), Err(GeneralError));
    rig.grant(1, 8, 2, 0x99, EntryFlags::empty());
    assert_eq!(map(1, 8, RW), Err(BadPage));
    rig.grant(1, 9, 2, TABLE as u32, EntryFlags::empty());
    assert_eq!(map(1, 9, RW), Err(BadPage));
    assert_eq!(rig.map_at(2, 1, 3, 1 << 40, RW), Err(GeneralError));
    for gref in 3..10 {
        assert_eq!(rig.marks(1, gref), EntryFlags::empty(), "grant {gref}");
    }
    assert_eq!(rig.references(1, 5), 1);
    // Every refused attempt gave its handle back.
    assert_eq!(rig.map(3, RW), Ok(GrantHandle(0)));
}

#[test]
fn a_mapping_without_quota_is_refused() {
    use core::sync::atomic::Ordering::SeqCst;
    let rig = Rig::new();
    rig.grant(1, 3, 2, 5, EntryFlags::empty());
    rig.domains[2].memory.hypervisor_max.store(0, SeqCst);
    assert_eq!(rig.map(3, RW), Err(GrantStatus::NoSpace));
    rig.domains[2].memory.hypervisor_max.store(100, SeqCst);
    rig.hv.hal.faults().fail_after(0);
    assert_eq!(rig.map(3, RW), Err(GrantStatus::GeneralError));
    assert_eq!(rig.marks(1, 3), EntryFlags::empty());
    rig.hv.hal.faults().off();
    rig.map(3, RW).unwrap();
}

#[test]
fn an_unmap_names_its_own_mapping() {
    let rig = Rig::new();
    use GrantStatus::*;
    rig.grant(1, 3, 2, 5, EntryFlags::empty());
    let handle = rig.map(3, RW).unwrap();
    assert_eq!(rig.unmap(GrantHandle(1)), Err(BadHandle));
    assert_eq!(rig.unmap(GrantHandle(u32::MAX)), Err(BadHandle));
    assert_eq!(rig.unmap_at(1, handle, WINDOW), Err(BadHandle));
    assert_eq!(rig.unmap_at(2, handle, WINDOW + 1), Err(GeneralError));
    // No address: the mapping is left alone.
    assert_eq!(rig.unmap_at(2, handle, 0), Ok(()));
    assert_eq!(rig.references(1, 5), 2);
    let replace = |new_addr| {
        let args = UnmapAndReplace {
            host_addr: WINDOW * PAGE,
            new_addr,
            handle,
            ..Default::default()
        };
        let done = rig.call(2, Op::UnmapAndReplace, args).unwrap();
        checked(done.status)
    };
    assert_eq!(replace(PAGE), Err(GeneralError));
    assert_eq!(replace(0), Ok(()));
    assert_eq!(rig.references(1, 5), 1);
}

#[test]
fn a_mapping_over_another_keeps_the_other_accounted() {
    let rig = Rig::new();
    rig.grant(1, 3, 2, 5, EntryFlags::empty());
    rig.grant(1, 4, 2, 6, EntryFlags::empty());
    let below = rig.map(3, RW).unwrap();
    let above = rig.map(4, RW).unwrap();
    assert_eq!(rig.unmap(below), Err(GrantStatus::GeneralError));
    rig.unmap(above).unwrap();
    assert_eq!(rig.references(1, 5), 2);
    assert_eq!(rig.hv.release_grants(&rig.domains[2]), Released::Yes);
    assert_eq!(rig.references(1, 5), 1);
}

#[test]
fn copies_move_bytes_between_granted_and_own_pages() {
    let rig = Rig::new();
    rig.grant(1, 3, 2, 5, EntryFlags::empty());
    rig.poke(1, 5 * PAGE + 16, b"from the granter");
    let mut op = copy_in();
    op.source.offset = 16;
    op.dest.offset = 100;
    op.len = 16;
    rig.copy(2, op).unwrap();
    assert_eq!(rig.peek(2, 4 * PAGE + 100), Ok(*b"from the granter"));
    let back = GrantCopy {
        source: own(4, 100),
        dest: granted(1, 3, 4080),
        len: 16,
        flags: CopyFlags::DEST_GREF,
        ..Default::default()
    };
    rig.copy(2, back).unwrap();
    assert_eq!(rig.peek(1, 6 * PAGE - 16), Ok(*b"from the granter"));
    assert_eq!(rig.marks(1, 3), EntryFlags::empty());
    assert_eq!((rig.references(1, 5), rig.references(2, 4)), (1, 1));
}

#[test]
fn a_third_party_copies_between_two_granters() {
    let rig = Rig::new();
    rig.grant(1, 3, 0, 5, EntryFlags::READONLY);
    rig.grant(2, 7, 0, 6, EntryFlags::empty());
    rig.poke(1, 5 * PAGE, b"passed on");
    let op = GrantCopy {
        source: granted(1, 3, 0),
        dest: granted(2, 7, 0),
        len: 9,
        flags: CopyFlags::SOURCE_GREF | CopyFlags::DEST_GREF,
        ..Default::default()
    };
    rig.copy(0, op).unwrap();
    assert_eq!(rig.peek(2, 6 * PAGE), Ok(*b"passed on"));
}

#[test]
fn a_copy_that_cannot_be_says_why() {
    let rig = Rig::new();
    use GrantStatus::*;
    rig.grant(1, 3, 2, 5, EntryFlags::READONLY);
    let with = |change: fn(&mut GrantCopy)| {
        let mut op = copy_in();
        change(&mut op);
        rig.copy(2, op)
    };
    assert_eq!(with(|_| ()), Ok(()));
    assert_eq!(with(|op| op.source.domid = DomId(9)), Err(BadDomain));
    assert_eq!(with(|op| op.source.gref_or_gfn = 4), Err(GeneralError));
    assert_eq!(with(|op| op.source.gref_or_gfn = 600), Err(BadGntref));
    assert_eq!(with(|op| op.dest.domid = DomId(2)), Err(PermissionDenied));
    assert_eq!(with(|op| op.dest.domid = DomId(9)), Err(BadDomain));
    assert_eq!(with(|op| op.dest.gref_or_gfn = 99), Err(BadPage));
    assert_eq!(with(|op| op.source.offset = 4089), Err(BadCopyArg));
    assert_eq!(with(|op| op.dest.offset = 4089), Err(BadCopyArg));
    assert_eq!(with(|op| op.len = u16::MAX), Err(BadCopyArg));
    let into_read_only = |op: &mut GrantCopy| {
        (op.source, op.dest) = (op.dest, op.source);
        op.flags = CopyFlags::DEST_GREF;
    };
    assert_eq!(with(into_read_only), Err(GeneralError));
    assert_eq!(rig.marks(1, 3), EntryFlags::empty());
}

#[test]
fn a_copy_array_goes_on_after_a_bad_element() {
    let rig = Rig::new();
    rig.grant(1, 3, 2, 5, EntryFlags::empty());
    rig.poke(1, 5 * PAGE, b"12345678abcdefgh");
    let mut ops = [copy_in(); 3];
    ops[1].source.gref_or_gfn = 9;
    ops[2].source.offset = 8;
    ops[2].dest.offset = 8;
    rig.poke(2, ARGS.0, &ops);
    assert_eq!(rig.raw(2, 5, ARGS, 3), Outcome::Done(0));
    let done: [GrantCopy; 3] = rig.peek(2, ARGS.0).unwrap();
    assert_eq!(done.map(|op| op.status), [0, -1, 0]);
    assert_eq!(rig.peek(2, 4 * PAGE), Ok(*b"12345678abcdefgh"));
    assert_eq!(rig.marks(1, 3), EntryFlags::empty());
}

#[test]
fn an_interrupted_array_goes_on_where_it_stopped() {
    let rig = Rig::new();
    rig.grant(1, 3, 2, 5, EntryFlags::empty());
    let map = |gfn| MapGrantRef {
        host_addr: gfn * PAGE,
        flags: RW,
        gref: GrantRef(3),
        dom: DomId(1),
        status: 99,
        ..Default::default()
    };
    let ops: [_; 4] = core::array::from_fn(|n| map(WINDOW + n as u64));
    rig.poke(2, ARGS.0, &ops);
    rig.hv.hal.cpu_record(CpuId(0)).interrupt_after(1);
    let Outcome::Again([cmd, arg, count, ..]) = rig.raw(2, 0, ARGS, 4) else {
        panic!("not preempted");
    };
    assert_eq!((cmd, arg, count), (0, ARGS.0 + 64, 2));
    rig.hv.hal.cpu_record(CpuId(0)).clear_interrupt();
    let rest = rig.raw(2, cmd, GuestVirt(arg), count);
    assert_eq!(rest, Outcome::Done(0));
    let done: [MapGrantRef; 4] = rig.peek(2, ARGS.0).unwrap();
    assert_eq!(done.map(|op| op.status), [0; 4]);
}

#[test]
fn a_table_grows_to_its_limit_and_tells_its_frames() {
    let rig = Rig::new();
    let setup = |caller: usize, dom: u16, nr_frames, list: u64| {
        let args = SetupTable {
            dom: DomId(dom),
            nr_frames,
            frame_list: GuestHandle::new(list),
            ..Default::default()
        };
        checked(rig.call(caller, Op::SetupTable, args).unwrap().status)
    };
    use GrantStatus::*;
    let list = 6 * PAGE;
    assert_eq!(setup(1, DomId::SELF.0, 3, list), Ok(()));
    assert_eq!(rig.peek(1, list), Ok([TABLE, u64::MAX, u64::MAX]));
    assert_eq!(setup(1, 1, 65, list), Err(GeneralError));
    assert_eq!(setup(1, 9, 1, list), Err(BadDomain));
    assert_eq!(setup(1, 2, 1, list), Err(PermissionDenied));
    assert_eq!(setup(1, 1, 1, 0x90 * PAGE), Err(BadVirtAddr));
    assert_eq!(setup(0, 1, 64, list), Ok(()));
    let size = |caller, dom: u16| {
        let args = QuerySize {
            dom: DomId(dom),
            ..Default::default()
        };
        let done: QuerySize = rig.call(caller, Op::QuerySize, args).unwrap();
        checked(done.status).map(|()| (done.nr_frames, done.max_nr_frames))
    };
    assert_eq!(size(1, 1), Ok((64, 64)));
    assert_eq!(size(0, 2), Ok((1, 64)));
    assert_eq!(size(1, 2), Err(PermissionDenied));
    assert_eq!(size(1, 9), Err(BadDomain));
    let domain = &rig.domains[2];
    let place = |index| rig.hv.grant_frame_for_physmap(domain, index, Gfn(0x101));
    assert!(place(5).is_ok());
    assert_eq!(place(64), Err(Errno::EINVAL));
    assert_eq!(size(2, 2), Ok((6, 64)));
}

#[test]
fn version_one_is_the_only_one_where_no_other_is_offered() {
    let rig = Rig::new();
    rig.domains[1].grants.set_max_version(1);
    let set = |version| rig.call(1, Op::SetVersion, SetVersion { version });
    assert_eq!(set(1).unwrap().version, 1);
    assert_eq!(set(2).unwrap_err(), Errno::ENOSYS);
    assert_eq!(rig.peek(1, ARGS.0), Ok(1_u32));
    assert_eq!(set(3).unwrap_err(), Errno::EINVAL);
    let get = |caller, dom: u16| {
        let args = GetVersion {
            dom: DomId(dom),
            ..Default::default()
        };
        rig.call(caller, Op::GetVersion, args).map(|op| op.version)
    };
    assert_eq!(get(1, DomId::SELF.0), Ok(1));
    assert_eq!(get(0, 1), Ok(1));
    assert_eq!(get(1, 2), Err(Errno::EPERM));
    assert_eq!(get(1, 9), Err(Errno::ESRCH));
    let args = GetStatusFrames {
        dom: DomId::SELF,
        ..Default::default()
    };
    let done = rig.call(1, Op::GetStatusFrames, args).unwrap();
    assert_eq!(checked(done.status), Err(GrantStatus::GeneralError));
}

#[test]
fn entries_swap_unless_in_use() {
    let rig = Rig::new();
    rig.grant(1, 3, 2, 5, EntryFlags::empty());
    let swap = |a, b| {
        let args = SwapGrantRef {
            ref_a: GrantRef(a),
            ref_b: GrantRef(b),
            ..Default::default()
        };
        checked(rig.call(1, Op::SwapGrantRef, args).unwrap().status)
    };
    swap(3, 8).unwrap();
    let [moved, left] = [8, 3].map(|gref| rig.peek::<EntryV1>(1, Rig::entry_at(gref)).unwrap());
    assert_eq!((moved.domid, moved.frame), (DomId(2), 5));
    assert_eq!((left.flags.0, left.frame), (0, 0));
    assert_eq!(swap(8, 8), Ok(()));
    assert_eq!(swap(8, 512), Err(GrantStatus::BadGntref));
    rig.map(8, RO).unwrap();
    assert_eq!(swap(8, 3), Err(GrantStatus::Eagain));
    assert_eq!(swap(3, 8), Err(GrantStatus::Eagain));
}

#[test]
fn caches_are_kept_for_own_and_granted_pages_only() {
    let rig = Rig::new();
    rig.grant(1, 3, 2, 5, EntryFlags::empty());
    let address = |domain: usize, gfn| {
        let entry = rig.domains[domain].p2m.lookup(Gfn(gfn)).unwrap();
        entry.mfn.base().0
    };
    let flush = |addr_or_gref, offset, length, op| {
        let args = CacheFlush {
            addr_or_gref,
            offset,
            length,
            op,
        };
        rig.call(2, Op::CacheFlush, args).map(drop)
    };
    let both = CacheFlags::CLEAN | CacheFlags::INVAL;
    let (mine, theirs) = (address(2, 4), address(1, 5));
    assert_eq!(flush(mine, 0, 4096, both), Ok(()));
    assert_eq!(flush(theirs, 0, 64, both), Err(Errno::EINVAL));
    rig.map(3, RO).unwrap();
    assert_eq!(flush(theirs, 0, 64, CacheFlags::CLEAN), Ok(()));
    assert_eq!(flush(mine, 4096, 0, both), Err(Errno::EINVAL));
    assert_eq!(flush(mine, 4000, 97, both), Err(Errno::EINVAL));
    assert_eq!(flush(mine, 0, 0, both), Ok(()));
    let by_grant = CacheFlags::CLEAN | CacheFlags::SOURCE_GREF;
    assert_eq!(flush(3, 0, 64, by_grant), Err(Errno::EOPNOTSUPP));
    assert_eq!(flush(mine, 0, 64, CacheFlags(8)), Err(Errno::EINVAL));
    assert_eq!(flush(u64::MAX, 0, 64, both), Err(Errno::EINVAL));
}

#[test]
fn what_is_not_offered_is_refused_as_xen_does() {
    let rig = Rig::new();
    let failed = |errno: Errno| Outcome::Done(errno.neg() as i64);
    assert_eq!(rig.raw(1, 3, ARGS, 1), failed(Errno::ENOSYS));
    assert_eq!(rig.raw(1, 13, ARGS, 1), failed(Errno::ENOSYS));
    assert_eq!(rig.raw(1, 1 << 20, ARGS, 1), failed(Errno::EINVAL));
    assert_eq!(rig.raw(1, 0, ARGS, 1 << 31), failed(Errno::EINVAL));
    for op in [2, 6, 9] {
        assert_eq!(rig.raw(1, op, ARGS, 2), failed(Errno::EINVAL));
    }
    let nowhere = GuestVirt(0x90 * PAGE);
    assert_eq!(rig.raw(1, 4, nowhere, 1), failed(Errno::EOPNOTSUPP));
    for op in (0..13).filter(|op| !matches!(op, 3 | 4)) {
        assert_eq!(rig.raw(1, op, nowhere, 1), failed(Errno::EFAULT), "{op}");
    }
    assert_eq!(rig.raw(1, 0, nowhere, 0), Outcome::Done(0));
}

#[test]
fn a_granted_frame_outlives_its_granter_and_then_goes() {
    let rig = Rig::new();
    rig.grant(1, 3, 2, 5, EntryFlags::empty());
    rig.poke(1, 5 * PAGE, &0xabcd_u64);
    let handle = rig.map(3, RW).unwrap();
    let granter = &rig.domains[1];
    assert_eq!(rig.hv.release_grants(granter), Released::Yes);
    let free = rig.hv.memory.free_frames();
    rig.hv.drop_allocation(granter, mfn(&rig, 2, WINDOW));
    assert_eq!(rig.peek(2, WINDOW * PAGE), Ok(0xabcd_u64));
    assert_eq!(rig.hv.memory.free_frames(), free);
    assert_eq!(rig.map_at(2, 1, 3, 0x300, RW), Err(GrantStatus::BadGntref));
    rig.unmap(handle).unwrap();
    assert_eq!(rig.hv.memory.free_frames(), free + 1);
}

fn mfn(rig: &Rig, domain: usize, gfn: u64) -> Mfn {
    rig.domains[domain].p2m.lookup(Gfn(gfn)).unwrap().mfn
}

#[test]
fn a_mapper_that_ends_lets_everything_go_in_pieces() {
    let rig = Rig::new();
    let before = rig.domains[2]
        .memory
        .hypervisor
        .load(core::sync::atomic::Ordering::SeqCst);
    rig.grant(1, 3, 2, 5, EntryFlags::empty());
    for n in 0..200 {
        rig.map_at(2, 1, 3, WINDOW + n, RW).unwrap();
    }
    let mapper = &rig.domains[2];
    rig.hv.hal.cpu_record(CpuId(0)).interrupt_after(1);
    assert_eq!(rig.hv.release_grants(mapper), Released::NotYet);
    assert_ne!(rig.marks(1, 3), EntryFlags::empty());
    rig.hv.hal.cpu_record(CpuId(0)).clear_interrupt();
    assert_eq!(rig.hv.release_grants(mapper), Released::Yes);
    assert_eq!(rig.hv.release_grants(mapper), Released::Yes);
    assert_eq!(rig.marks(1, 3), EntryFlags::empty());
    assert_eq!(rig.references(1, 5), 1);
    let after = mapper
        .memory
        .hypervisor
        .load(core::sync::atomic::Ordering::SeqCst);
    assert!(after < before, "the table's frame went too");
}

#[test]
fn a_dump_tells_who_uses_what() {
    let rig = Rig::new();
    rig.grant(1, 3, 2, 5, EntryFlags::empty());
    rig.map(3, RW).unwrap();
    rig.map_at(2, 1, 3, WINDOW + 1, RO).unwrap();
    let mut lines = vec![];
    rig.hv.dump_grants(&rig.domains[1], |facts: &GrantFacts| {
        lines.push(facts.to_string());
    });
    let mfn = mfn(&rig, 1, 5).0;
    let used = "1 readers, 1 writers); entry: flags 0x19 gfn 0x5";
    assert_eq!(
        lines,
        [alloc::format!("ref 0x3: d2 uses mfn {mfn:#x} ({used}")]
    );
    lines.clear();
    rig.hv
        .dump_mappings(&rig.domains[2], |facts: &MappingFacts| {
            lines.push(facts.to_string());
        });
    assert_eq!(
        lines,
        [
            "handle 0x0: d1 ref 0x3 at gfn 0x200 rw",
            "handle 0x1: d1 ref 0x3 at gfn 0x201 r",
        ]
    );
}
