//! Every frame is accounted for: owned by the domain that is charged for it, with as many references as there are
//! holders, or free, or a table.

use std::{
    collections::{HashMap, HashSet},
    sync::atomic::Ordering::SeqCst,
};

use xenolith_core::{
    DomId, DomainRef,
    grant::entry::Access,
    memory::{Charge, Class, FrameState, FrameType},
};
use xenolith_hal::{Gfn, Mfn, P2m, P2mEntry, P2mType};
use xenolith_sim::Sim;

use crate::{machine::Machine, pv::writes};

/// Frames of each kind, as the records say.
#[derive(Default)]
struct Found {
    free: u64,
    hypervisor: u64,
    owned: HashMap<(DomId, bool), u64>,
}

fn walk(domain: &DomainRef<Sim>, mut f: impl FnMut(Gfn, P2mEntry, u64)) {
    let mut at = Gfn(0);
    while let Some((gfn, entry, left)) = domain.p2m.next_mapped(at) {
        f(gfn, entry, left);
        at = gfn.plus(left);
    }
}

/// What is held by everybody, by frame.
#[derive(Clone, Default)]
pub struct Held {
    references: HashMap<Mfn, u64>,
    /// Uses as writable memory, of paravirtual domains.
    writers: HashMap<Mfn, u64>,
    tables: HashSet<Mfn>,
    /// Domains that are paravirtual.
    paravirtual: HashSet<DomId>,
}

impl Held {
    /// Somebody has a reference.
    pub fn reference(&mut self, mfn: Mfn) {
        *self.references.entry(mfn).or_default() += 1;
    }

    /// Somebody with a reference writes.
    pub fn writer(&mut self, mfn: Mfn) {
        *self.writers.entry(mfn).or_default() += 1;
    }

    fn writable(&mut self, mfn: Mfn) {
        self.reference(mfn);
        self.writer(mfn);
    }

    fn table(&mut self, mfn: Mfn) {
        self.reference(mfn);
        assert!(self.tables.insert(mfn), "{mfn:?} is a page table twice");
    }
}

impl Machine {
    /// What is free and what is charged to somebody is all there is.
    pub fn check_accounts(&self) {
        let mut charged = 0;
        self.hv.domains.for_each(|domain| {
            let account = &domain.memory;
            charged += account.owned.load(SeqCst) + account.hypervisor.load(SeqCst);
            charged -= domain.grants.facts().heap + domain.events.charged();
        });
        let ballast: u64 = self.ballast.iter().map(|(_, order)| 1 << order).sum();
        let free = self.hv.memory.free_frames();
        assert_eq!(
            free + charged + ballast,
            self.frames,
            "frames free and charged"
        );
    }

    /// `pinned` is what grants hold.
    pub fn check_frames(&self, pinned: &Held) {
        let mut held = pinned.clone();
        self.hv.domains.for_each(|domain| {
            match domain.is_pv() {
                true => {
                    held.paravirtual.insert(domain.id());
                    self.check_page_tables(domain, &mut held);
                }
                false => self.check_map(domain, &mut held),
            }
            for area in domain.vcpus.iter().filter_map(|vcpu| vcpu.info.get()) {
                held.writable(area.mfn);
            }
            for mfn in domain.events.fifo_frames() {
                held.writable(mfn);
            }
        });
        for mfn in self.doms.iter().flat_map(|dom| &dom.tables) {
            held.table(*mfn);
        }
        let found = self.check_records(&mut held);
        let held = held.references;
        assert!(
            held.is_empty(),
            "references on frames that are nobody's: {held:x?}"
        );
        assert_eq!(found.free, self.hv.memory.free_frames(), "free frames");
        let mut tables: u64 = self.ballast.iter().map(|(_, order)| 1 << order).sum();
        let mut owners = found.owned;
        self.hv.domains.for_each(|domain| {
            let (id, account) = (domain.id(), &domain.memory);
            let owned = owners.remove(&(id, true)).unwrap_or(0);
            assert_eq!(owned, account.owned.load(SeqCst), "memory of {id}");
            let shared = owners.remove(&(id, false)).unwrap_or(0);
            let grants = domain.grants.facts();
            let own_tables = domain.p2m.table_frames() as u64;
            let spent = shared + own_tables + grants.heap + domain.events.charged();
            assert_eq!(spent, account.hypervisor.load(SeqCst), "spent for {id}");
            tables += own_tables;
        });
        assert!(
            owners.is_empty(),
            "frames of domains that are gone: {owners:?}"
        );
        assert_eq!(found.hypervisor, tables, "frames of the hypervisor");
    }

    /// Each translation names memory that is there for it.
    fn check_map(&self, domain: &DomainRef<Sim>, held: &mut Held) {
        let (id, dying) = (domain.id(), domain.memory.is_closed());
        let mut granted = HashMap::new();
        self.hv.dump_mappings(domain, |mapping| {
            granted
                .entry((mapping.gfn, mapping.mfn))
                .and_modify(|writable: &mut bool| *writable |= mapping.access as u8 != 0)
                .or_insert(mapping.access as u8 != 0);
        });
        let mut seen = HashMap::new();
        walk(domain, |gfn, entry, frames| {
            let state = |mfn| self.hv.memory.record(mfn).map(|record| record.state());
            let kind = entry.kind;
            for (gfn, mfn) in (0..frames).map(|n| (gfn.plus(n), entry.mfn.plus(n))) {
                let at = || format!("{id} {gfn:?}: {kind:?} {mfn:?} {:?}", state(mfn));
                let record = state(mfn);
                match kind {
                    P2mType::ForeignRw | P2mType::ForeignRo => {
                        held.reference(mfn);
                        if kind == P2mType::ForeignRw {
                            held.writer(mfn);
                        }
                        let owner = record.and_then(|record| record.owner());
                        assert!(owner.is_some_and(|owner| owner != id), "{}", at());
                    }
                    P2mType::GrantRw => {
                        assert_eq!(granted.get(&(gfn, mfn)), Some(&true), "{}", at());
                    }
                    P2mType::GrantRo => assert!(granted.contains_key(&(gfn, mfn)), "{}", at()),
                    // Going; what the domain owned may be somebody else's by now.
                    _ if dying => {}
                    P2mType::RamRw | P2mType::RamRo => {
                        let fine = record.is_some_and(|record| {
                            record.owner() == Some(id)
                                && record.charge() == Charge::Memory
                                && record.allocated()
                        });
                        assert!(fine, "{}", at());
                        assert_eq!(seen.insert(mfn, gfn), None, "mapped twice: {}", at());
                    }
                    P2mType::XenShared => {
                        let record = self.hv.memory.record(mfn).expect("RAM");
                        let fine = record.state().owner() == Some(id)
                            && record.state().charge() == Charge::Hypervisor;
                        assert!(fine, "{}", at());
                        assert_eq!(record.shown_at(), Some(gfn), "{}", at());
                    }
                    P2mType::MmioDirect => panic!("{}", at()),
                }
            }
        });
    }

    /// Walks the frame table; takes the references that it finds out of `held`.
    fn check_records(&self, held: &mut Held) -> Found {
        let mut found = Found::default();
        for bank in self.hv.memory.table().banks() {
            let mut inside_block = 0_u64;
            for (record, mfn) in bank.records.iter().zip(bank.first.0..) {
                let (mfn, state) = (Mfn(mfn), record.state());
                if inside_block != 0 {
                    assert_eq!(state.class(), Class::Reserved, "{mfn:?} inside a block");
                    inside_block -= 1;
                    continue;
                }
                match state.class() {
                    Class::Reserved => panic!("{mfn:?} is nobody's"),
                    Class::Free(order) => {
                        found.free += 1 << order;
                        inside_block = (1 << order) - 1;
                    }
                    Class::Hypervisor(order) => {
                        found.hypervisor += 1 << order;
                        inside_block = (1 << order) - 1;
                    }
                    Class::Domain(owner) => {
                        let memory = state.charge() == Charge::Memory;
                        *found.owned.entry((owner, memory)).or_default() += 1;
                        let holders = held.references.remove(&mfn).unwrap_or(0);
                        let expected = holders + u64::from(state.allocated());
                        assert_eq!(state.count(), expected, "{mfn:?} {state:?}");
                        Self::check_type(mfn, state, held);
                        if !memory
                            && let Some(gfn) = record.shown_at()
                            && let Some(domain) = self.hv.domains.get(owner)
                            && !domain.memory.is_closed()
                        {
                            let entry = domain.p2m.lookup(gfn).map(|e| (e.mfn, e.kind));
                            let shown = Some((mfn, P2mType::XenShared));
                            assert_eq!(entry, shown, "{mfn:?} is not shown at {gfn:?}");
                        }
                    }
                }
            }
            assert_eq!(inside_block, 0, "a block reaches past its bank");
        }
        found
    }

    /// Each entry holds what it leads to; those of grants are no more than the grants.
    fn check_page_tables(&self, domain: &DomainRef<Sim>, held: &mut Held) {
        let id = domain.id();
        let mut granted: HashMap<(Mfn, bool), u64> = HashMap::new();
        self.hv.dump_mappings(domain, |mapping| {
            let writable = mapping.access == Access::Write;
            *granted.entry((mapping.mfn, writable)).or_default() += 1;
        });
        walk(domain, |page, entry, frames| {
            let at = || format!("{id} {page:?}: {entry:?}");
            assert_eq!(frames, 1, "{}", at());
            match entry.kind {
                P2mType::GrantRw | P2mType::GrantRo => {
                    let writable = entry.kind == P2mType::GrantRw;
                    let left = granted.get_mut(&(entry.mfn, writable));
                    let left = left.filter(|left| **left != 0);
                    *left.unwrap_or_else(|| panic!("{}: not granted", at())) -= 1;
                }
                kind => {
                    let state = self.hv.memory.record(entry.mfn).map(|r| r.state());
                    let owner = state.and_then(|state| state.owner());
                    assert_eq!(owner, Some(id), "{}", at());
                    held.reference(entry.mfn);
                    if writes(kind) {
                        held.writer(entry.mfn);
                    }
                }
            }
        });
    }

    /// A paravirtual domain's frame is used as what its users use it as; one of another domain has no type.
    fn check_type(mfn: Mfn, state: FrameState, held: &Held) {
        let typed = state
            .owner()
            .is_some_and(|id| held.paravirtual.contains(&id));
        let mut writers = held.writers.get(&mfn).copied().unwrap_or(0);
        if state.charge() == Charge::Hypervisor {
            writers += u64::from(state.allocated());
        }
        let tables = u64::from(held.tables.contains(&mfn));
        assert!(writers == 0 || tables == 0 || !typed, "{mfn:?} {state:?}");
        let expected = match typed {
            true => writers + tables,
            false => 0,
        };
        assert_eq!(state.type_count(), expected, "{mfn:?} {state:?}");
        if expected != 0 {
            let kind = [FrameType::Writable, FrameType::L1][tables as usize];
            assert_eq!(state.frame_type(), kind, "{mfn:?} {state:?}");
        }
    }

    /// The machine-to-physical table knows only frames of paravirtual domains.
    pub fn check_machine_to_phys(&self) {
        let mut paravirtual = HashSet::new();
        self.hv.domains.for_each(|domain| {
            if domain.is_pv() {
                paravirtual.insert(domain.id());
            }
        });
        for mfn in self.sim.known_frames() {
            let owner = self.hv.memory.record(mfn).and_then(|r| r.state().owner());
            assert!(owner.is_some_and(|id| paravirtual.contains(&id)), "{mfn:?}");
        }
    }

    /// A free frame holds nothing of whoever had it last.
    pub fn check_free_memory_is_blank(&self) {
        for bank in self.hv.memory.table().banks() {
            for (record, mfn) in bank.records.iter().zip(bank.first.0..) {
                if let Class::Free(order) = record.state().class() {
                    for mfn in (mfn..mfn + (1 << order)).map(Mfn) {
                        assert!(self.sim.ram().is_zero(mfn), "{mfn:?} was not scrubbed");
                    }
                }
            }
        }
    }
}
