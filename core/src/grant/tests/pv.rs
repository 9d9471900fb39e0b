//! Grants between paravirtual domains. Their page tables are the simulated machine's linear address spaces.

use core::cell::Cell;
use std::thread_local;

use xenolith_abi::Nr;

use super::*;
use crate::{
    grant::{PvMapping, PvPlace},
    hypercall::{Rows, dispatch_with},
};

thread_local! {
    static FLUSHES: Cell<u32> = const { Cell::new(0) };
}

/// Page tables that say nothing but which page leads where.
struct Tables;

fn page(mapping: &PvMapping) -> Gfn {
    match mapping.place {
        PvPlace::Address(address) => Gfn(address.0 / PAGE),
        PvPlace::Entry(entry) => Gfn(0x1000 + entry.0 / 8),
    }
}

fn kind(mapping: &PvMapping) -> P2mType {
    match mapping.is_writable() {
        true => P2mType::GrantRw,
        false => P2mType::GrantRo,
    }
}

impl Rows<Sim> for Tables {
    fn call(_: Caller<'_, Sim>, _: u64, _: [u64; 5]) -> Option<Outcome> {
        None
    }

    fn map_granted(caller: Caller<'_, Sim>, mapping: &PvMapping) -> Result<(), GrantStatus> {
        let (hv, domain) = (caller.hv, caller.domain());
        let entry = Some((mapping.mfn, kind(mapping)));
        let changed = domain
            .p2m
            .exchange(page(mapping), entry, &hv.tables(domain));
        changed.map(drop).map_err(|_| GrantStatus::GeneralError)
    }

    fn unmap_granted(
        caller: Caller<'_, Sim>,
        mapping: &PvMapping,
        new: Option<GuestVirt>,
    ) -> Result<(), GrantStatus> {
        let (hv, domain) = (caller.hv, caller.domain());
        let seen = (mapping.mfn, kind(mapping));
        let tables = hv.tables(domain);
        if domain.p2m.remove_if(page(mapping), seen, &tables) != Ok(true) {
            return Err(GrantStatus::GeneralError);
        }
        if let Some(new) = new {
            let moved = domain.p2m.exchange(Gfn(new.0 / PAGE), None, &tables);
            let moved = moved.unwrap().map(|entry| (entry.mfn, entry.kind));
            domain.p2m.exchange(page(mapping), moved, &tables).unwrap();
        }
        Ok(())
    }

    fn flush_granted(_: Caller<'_, Sim>) {
        FLUSHES.set(FLUSHES.get() + 1);
    }
}

const GRANTER: u16 = 1;
const MAPPER: u16 = 2;
/// Where the mapper maps.
const AT: u64 = 0x300;

struct Pair {
    hv: Hypervisor<Sim>,
    domains: [DomainRef<Sim>; 2],
}

impl Pair {
    /// Both see their grant table at page [`TABLE`].
    fn new() -> Self {
        let hv = testing::hypervisor(&Sim::small());
        let domains = [GRANTER, MAPPER].map(|id| testing::pv(&hv, id, 32));
        let pair = Self { hv, domains };
        for domain in [GRANTER, MAPPER] {
            let setup = SetupTable {
                dom: DomId::SELF,
                nr_frames: 1,
                frame_list: GuestHandle::new(PAGE * 2),
                ..Default::default()
            };
            let done = pair.call(domain, Op::SetupTable, &[setup])[0];
            assert_eq!(done.status, 0);
            let table = Mfn(pair.peek(domain, PAGE * 2));
            let owner = pair.domain(domain);
            owner
                .p2m
                .map(Gfn(TABLE), table, 1, P2mType::RamRw, &pair.hv.tables(owner))
                .unwrap();
        }
        FLUSHES.set(0);
        pair
    }

    fn domain(&self, id: u16) -> &DomainRef<Sim> {
        &self.domains[usize::from(id - 1)]
    }

    fn with<R>(&self, id: u16, f: impl FnOnce(Caller<'_, Sim>) -> R) -> R {
        let vcpu = testing::vcpu(self.domain(id));
        f(Caller {
            hv: &self.hv,
            vcpu: &vcpu,
        })
    }

    fn peek(&self, id: u16, at: u64) -> u64 {
        self.with(id, |caller| caller.read(GuestVirt(at)).unwrap())
    }

    fn call<T>(&self, id: u16, op: Op, args: &[T]) -> Vec<T>
    where
        T: FromBytes + IntoBytes + Immutable + Copy,
    {
        self.with(id, |caller| {
            caller.write_bytes(ARGS, args.as_bytes()).unwrap();
            let count = args.len() as u64;
            let registers = [op.number().into(), ARGS.0, count, 0, 0];
            let nr = Nr::GrantTableOp.number();
            let outcome = dispatch_with::<_, Tables>(caller, nr, registers);
            assert_eq!(outcome, Outcome::Done(0));
            let mut out = args.to_vec();
            caller
                .read_bytes(ARGS, out.as_mut_slice().as_mut_bytes())
                .unwrap();
            out
        })
    }

    fn mfn(&self, id: u16, page: u64) -> Mfn {
        testing::mfn_at(self.domain(id), page)
    }

    /// The granter grants a frame of the machine.
    fn grant(&self, gref: u32, mfn: Mfn, flags: EntryFlags) {
        let entry = EntryV1 {
            flags: EntryFlags(flags.0 | entry_type::PERMIT_ACCESS),
            domid: DomId(MAPPER),
            frame: mfn.0 as u32,
        };
        let at = GuestVirt(TABLE * PAGE + u64::from(gref) * 8);
        self.with(GRANTER, |caller| {
            caller.write_bytes(at, entry.as_bytes()).unwrap();
        });
    }

    fn map(&self, gref: u32, host_addr: u64, flags: MapFlags) -> Result<GrantHandle, GrantStatus> {
        let op = MapGrantRef {
            host_addr,
            flags,
            gref: GrantRef(gref),
            dom: DomId(GRANTER),
            ..Default::default()
        };
        let done = self.call(MAPPER, Op::MapGrantRef, &[op])[0];
        checked(done.status).map(|()| done.handle)
    }

    fn unmap(&self, handle: GrantHandle, host: u64, device: u64) -> Result<(), GrantStatus> {
        let op = UnmapGrantRef {
            host_addr: host,
            dev_bus_addr: device,
            handle,
            ..Default::default()
        };
        checked(self.call(MAPPER, Op::UnmapGrantRef, &[op])[0].status)
    }

    /// References on a frame, its type and how often it is used so.
    fn uses(&self, mfn: Mfn) -> (u64, u64) {
        let state = self.hv.memory.record(mfn).unwrap().state();
        (state.count(), state.type_count())
    }
}

#[test]
fn a_mapping_holds_the_frame_and_its_use_as_writable_memory() {
    let pair = Pair::new();
    let mfn = pair.mfn(GRANTER, 5);
    pair.grant(9, mfn, EntryFlags::empty());
    let read = pair
        .map(9, AT * PAGE, MapFlags::HOST_MAP | MapFlags::READONLY)
        .unwrap();
    assert_eq!(pair.uses(mfn), (2, 0));
    let write = pair.map(9, (AT + 1) * PAGE, MapFlags::HOST_MAP).unwrap();
    assert_eq!(pair.uses(mfn), (2, 1));
    assert_eq!(testing::mfn_at(pair.domain(MAPPER), AT + 1), mfn);
    pair.unmap(write, (AT + 1) * PAGE, 0).unwrap();
    assert_eq!(pair.uses(mfn), (2, 0));
    pair.unmap(read, AT * PAGE, 0).unwrap();
    assert_eq!(pair.uses(mfn), (1, 0));
    assert_eq!(FLUSHES.get(), 2);
    assert_eq!(pair.unmap(read, AT * PAGE, 0), Err(GrantStatus::BadHandle));
}

#[test]
fn a_page_table_is_granted_for_reading_only() {
    let pair = Pair::new();
    let mfn = pair.mfn(GRANTER, 5);
    testing::make_table(&pair.hv, pair.domain(GRANTER), mfn);
    pair.grant(9, mfn, EntryFlags::empty());
    let writable = || pair.map(9, AT * PAGE, MapFlags::HOST_MAP);
    assert_eq!(writable(), Err(GrantStatus::GeneralError));
    assert_eq!(pair.uses(mfn), (2, 1));
    let read = MapFlags::HOST_MAP | MapFlags::READONLY;
    let handle = pair.map(9, AT * PAGE, read).unwrap();
    // The grant is in use, but not for writing yet.
    assert_eq!(writable(), Err(GrantStatus::GeneralError));
    assert_eq!(pair.uses(mfn), (3, 1));
    pair.unmap(handle, AT * PAGE, 0).unwrap();
    testing::end_table(&pair.hv, mfn);
    assert!(writable().is_ok());
}

#[test]
fn only_the_granters_own_memory_is_granted() {
    let pair = Pair::new();
    let foreign = pair.mfn(MAPPER, 5);
    let shared = pair.domain(GRANTER).shared_info;
    for mfn in [foreign, shared, Mfn(3), Mfn(0xffff_ffff)] {
        pair.grant(9, mfn, EntryFlags::empty());
        let mapped = pair.map(9, AT * PAGE, MapFlags::HOST_MAP);
        assert_eq!(mapped, Err(GrantStatus::BadPage), "{mfn:?}");
    }
}

#[test]
fn an_entry_is_named_by_its_machine_address() {
    let pair = Pair::new();
    let mfn = pair.mfn(GRANTER, 5);
    pair.grant(9, mfn, EntryFlags::empty());
    let entry = 0x4_0000_0008 / 0x1000;
    let flags = MapFlags::HOST_MAP | MapFlags::CONTAINS_PTE;
    let handle = pair.map(9, entry, flags).unwrap();
    let place = Gfn(0x1000 + entry / 8);
    assert!(pair.domain(MAPPER).p2m.lookup(place).is_some());
    let replace = UnmapAndReplace {
        host_addr: entry,
        new_addr: 3 * PAGE,
        handle,
        ..Default::default()
    };
    let done = pair.call(MAPPER, Op::UnmapAndReplace, &[replace])[0];
    assert_eq!(checked(done.status), Err(GrantStatus::GeneralError));
    pair.unmap(handle, entry, 0).unwrap();
    assert!(pair.domain(MAPPER).p2m.lookup(place).is_none());
    assert_eq!(pair.uses(mfn), (1, 0));
}

#[test]
fn a_mapping_for_cpus_and_devices_ends_with_its_second_half() {
    let pair = Pair::new();
    let mfn = pair.mfn(GRANTER, 5);
    pair.grant(9, mfn, EntryFlags::empty());
    let both = MapFlags::HOST_MAP | MapFlags::DEVICE_MAP;
    let handle = pair.map(9, AT * PAGE, both).unwrap();
    let wrong = pair.unmap(handle, AT * PAGE, mfn.base().0 + PAGE);
    assert_eq!(wrong, Err(GrantStatus::BadDevAddr));
    pair.unmap(handle, AT * PAGE, 0).unwrap();
    assert_eq!(pair.uses(mfn), (2, 1));
    pair.unmap(handle, 0, mfn.base().0).unwrap();
    assert_eq!(pair.uses(mfn), (1, 0));
    let device = pair.map(9, 0, MapFlags::DEVICE_MAP).unwrap();
    assert_eq!(pair.uses(mfn), (2, 1));
    pair.unmap(device, 0, mfn.base().0).unwrap();
    assert_eq!(pair.uses(mfn), (1, 0));
}

#[test]
fn another_page_takes_the_place_of_a_mapping() {
    let pair = Pair::new();
    let (mfn, own) = (pair.mfn(GRANTER, 5), pair.mfn(MAPPER, 8));
    pair.grant(9, mfn, EntryFlags::empty());
    let handle = pair.map(9, AT * PAGE, MapFlags::HOST_MAP).unwrap();
    let replace = UnmapAndReplace {
        host_addr: AT * PAGE,
        new_addr: 8 * PAGE,
        handle,
        ..Default::default()
    };
    let done = pair.call(MAPPER, Op::UnmapAndReplace, &[replace])[0];
    assert_eq!(done.status, 0);
    assert_eq!(pair.mfn(MAPPER, AT), own);
    assert!(pair.domain(MAPPER).p2m.lookup(Gfn(8)).is_none());
    assert_eq!(pair.uses(mfn), (1, 0));
}

#[test]
fn a_mapping_that_the_guest_overwrote_stands() {
    let pair = Pair::new();
    let mfn = pair.mfn(GRANTER, 5);
    pair.grant(9, mfn, EntryFlags::empty());
    let handle = pair.map(9, AT * PAGE, MapFlags::HOST_MAP).unwrap();
    let mapper = pair.domain(MAPPER);
    let tables = pair.hv.tables(mapper);
    mapper.p2m.exchange(Gfn(AT), None, &tables).unwrap();
    let refused = pair.unmap(handle, AT * PAGE, 0);
    assert_eq!(refused, Err(GrantStatus::GeneralError));
    assert_eq!(pair.uses(mfn), (2, 1));
    testing::destroy(&pair.hv, mapper);
    assert_eq!(pair.uses(mfn), (1, 0));
}

#[test]
fn tlbs_are_flushed_once_for_many_mappings() {
    let pair = Pair::new();
    let mfn = pair.mfn(GRANTER, 5);
    pair.grant(9, mfn, EntryFlags::empty());
    let unmaps: Vec<_> = (0..40)
        .map(|n| {
            let host_addr = (AT + n) * PAGE;
            let handle = pair.map(9, host_addr, MapFlags::HOST_MAP).unwrap();
            UnmapGrantRef {
                host_addr,
                handle,
                ..Default::default()
            }
        })
        .collect();
    let done = pair.call(MAPPER, Op::UnmapGrantRef, &unmaps);
    assert!(done.iter().all(|op| op.status == 0));
    assert_eq!(FLUSHES.get(), 2);
    assert_eq!(pair.uses(mfn), (1, 0));
}

#[test]
fn bytes_are_copied_by_machine_frame_and_never_into_a_page_table() {
    let pair = Pair::new();
    let (mfn, own) = (pair.mfn(GRANTER, 5), pair.mfn(MAPPER, 8));
    pair.grant(9, mfn, EntryFlags::empty());
    pair.with(GRANTER, |caller| {
        caller.write_bytes(GuestVirt(5 * PAGE), b"stone").unwrap();
    });
    let copy = GrantCopy {
        source: CopyPtr {
            gref_or_gfn: 9,
            domid: DomId(GRANTER),
            ..Default::default()
        },
        dest: CopyPtr {
            gref_or_gfn: own.0,
            domid: DomId::SELF,
            ..Default::default()
        },
        len: 5,
        flags: xenolith_abi::grant_table::CopyFlags::SOURCE_GREF,
        ..Default::default()
    };
    let run = |copy: GrantCopy| checked(pair.call(MAPPER, Op::Copy, &[copy])[0].status);
    assert_eq!(run(copy), Ok(()));
    let mut there = [0; 5];
    pair.hv.hal.read_frame(own, 0, &mut there).unwrap();
    assert_eq!(&there, b"stone");
    testing::make_table(&pair.hv, pair.domain(MAPPER), own);
    assert_eq!(run(copy), Err(GrantStatus::GeneralError));
    let mut elsewhere = copy;
    for frame in [mfn.0, pair.domain(GRANTER).shared_info.0, 3] {
        elsewhere.dest.gref_or_gfn = frame;
        assert_eq!(run(elsewhere), Err(GrantStatus::BadPage));
    }
    // What the hypervisor shows to it for writing is its own to write.
    let shared = pair.domain(MAPPER).shared_info;
    let before = pair.uses(shared);
    elsewhere.dest.gref_or_gfn = shared.0;
    assert_eq!(run(elsewhere), Ok(()));
    assert_eq!(pair.uses(shared), before);
    assert_eq!(pair.uses(mfn), (1, 0));
    assert_eq!(pair.uses(own), (2, 1));
}

#[test]
fn a_page_is_given_away_to_who_waits_for_it() {
    let pair = Pair::new();
    let give = |mfn: Mfn, domid: u16, gref: u32| {
        let op = Transfer {
            mfn: mfn.0,
            domid: DomId(domid),
            gref: GrantRef(gref),
            ..Default::default()
        };
        checked(pair.call(MAPPER, Op::Transfer, &[op])[0].status)
    };
    let entry = |flags: u16| {
        let entry = EntryV1 {
            flags: EntryFlags(flags),
            domid: DomId(MAPPER),
            frame: 0,
        };
        let at = GuestVirt(TABLE * PAGE + 9 * 8);
        pair.with(GRANTER, |caller| {
            caller.write_bytes(at, entry.as_bytes()).unwrap();
        });
    };
    entry(entry_type::ACCEPT_TRANSFER);
    let mfn = pair.mfn(MAPPER, 8);
    pair.hv.hal.write_frame(mfn, 0, b"stone").unwrap();
    let owned = || {
        let owned = |id| {
            pair.domain(id)
                .memory
                .owned
                .load(core::sync::atomic::Ordering::SeqCst)
        };
        (owned(GRANTER), owned(MAPPER))
    };
    let (receiver, giver) = owned();
    let held = pair.hv.get_frame(mfn, DomId(MAPPER)).unwrap();
    assert_eq!(give(mfn, GRANTER, 9), Err(GrantStatus::BadPage), "in use");
    drop(held);
    assert_eq!(give(Mfn(3), GRANTER, 9), Err(GrantStatus::BadPage));
    assert_eq!(give(mfn, 7, 9), Err(GrantStatus::BadDomain));
    assert_eq!(give(mfn, GRANTER, 10), Err(GrantStatus::GeneralError));
    assert_eq!(give(mfn, GRANTER, 1 << 20), Err(GrantStatus::GeneralError));
    assert_eq!(owned(), (receiver, giver));
    assert_eq!(give(mfn, GRANTER, 9), Ok(()));
    assert_eq!(owned(), (receiver + 1, giver - 1));
    let state = pair.hv.memory.record(mfn).unwrap().state();
    assert!(state.is_owned_by(DomId(GRANTER)));
    assert_eq!(pair.hv.hal.machine_to_phys(mfn), None);
    let done = pair.peek(GRANTER, TABLE * PAGE + 9 * 8);
    let both = EntryFlags::TRANSFER_COMMITTED | EntryFlags::TRANSFER_COMPLETED;
    assert_eq!(done as u16, entry_type::ACCEPT_TRANSFER | both);
    assert_eq!(done >> 32, mfn.0);
    let mut there = [0; 5];
    pair.hv.hal.read_frame(mfn, 0, &mut there).unwrap();
    assert_eq!(&there, b"stone");
    let next = pair.mfn(MAPPER, 9);
    assert_eq!(
        give(next, GRANTER, 9),
        Err(GrantStatus::GeneralError),
        "once"
    );
}
