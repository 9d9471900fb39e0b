//! Paravirtual domains: what their page tables would do.
//!
//! The simulated linear address space of such a guest stands for its page tables, so each entry that leads to a frame of the
//! domain's own holds that frame: for writing, or as a page table that can only be read. An entry that leads to a granted
//! frame holds nothing; the grant does.

use xenolith_abi::grant_table::GrantStatus;
use xenolith_core::{
    DomainRef, Hypervisor, VcpuRef,
    grant::{PvMapping, PvPlace},
    guest::Caller,
    hypercall::{Outcome, Rows},
    memory::{Charge, Claim, Dropped, Ended, FrameState, FrameType},
};
use xenolith_hal::{AtomicOp, Gfn, GuestVirt, Hal, Mfn, P2m, P2mType};
use xenolith_sim::Sim;

use crate::{
    guest::{DATA, GRANT_TABLE, LAYOUT, WINDOW, WINDOW_PAGES},
    machine::{BANKS, Machine},
};

/// The architecture's part of hypercalls.
pub struct Tables;

/// Whether an entry of this kind holds its frame for writing.
pub fn writes(kind: P2mType) -> bool {
    matches!(kind, P2mType::RamRw | P2mType::XenShared)
}

fn let_go(hv: &Hypervisor<Sim>, mfn: Mfn, kind: P2mType) {
    match kind {
        P2mType::RamRw | P2mType::XenShared => hv.put_writable(mfn),
        P2mType::RamRo => hv.put_frame(mfn),
        _ => {}
    }
}

/// Changes an entry, which holds what it leads to already.
fn set_entry(
    hv: &Hypervisor<Sim>,
    domain: &DomainRef<Sim>,
    page: Gfn,
    entry: Option<(Mfn, P2mType)>,
) -> bool {
    match domain.p2m.exchange(page, entry, &hv.tables(domain)) {
        Ok(Some(old)) => let_go(hv, old.mfn, old.kind),
        Ok(None) => {}
        Err(_) => return false,
    }
    true
}

/// Lets a page lead to a frame of the domain's own; false when that cannot be.
pub fn map_own(
    hv: &Hypervisor<Sim>,
    domain: &DomainRef<Sim>,
    page: Gfn,
    (mfn, kind): (Mfn, P2mType),
) -> bool {
    let held = match writes(kind) {
        true => hv.get_writable(mfn, domain).map(|frame| frame.keep()),
        false => hv.get_frame(mfn, domain.id()).map(|frame| frame.keep()),
    };
    if held.is_none() {
        return false;
    }
    let set = set_entry(hv, domain, page, Some((mfn, kind)));
    if !set {
        let_go(hv, mfn, kind);
    }
    set
}

/// The number by which a domain names the frame that it sees at a page.
pub fn frame_of(domain: &DomainRef<Sim>, page: u64) -> u64 {
    match domain.p2m.lookup(Gfn(page)) {
        Some(entry) if domain.is_pv() => entry.mfn.0,
        _ => page,
    }
}

fn page_of(mapping: &PvMapping) -> Gfn {
    match mapping.place {
        PvPlace::Address(address) => Gfn(address.0 >> 12),
        PvPlace::Entry(entry) => Gfn(entry.0 >> 3),
    }
}

fn kind_of(mapping: &PvMapping) -> P2mType {
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
        let entry = Some((mapping.mfn, kind_of(mapping)));
        let set = set_entry(caller.hv, caller.domain(), page_of(mapping), entry);
        set.then_some(()).ok_or(GrantStatus::GeneralError)
    }

    fn unmap_granted(
        caller: Caller<'_, Sim>,
        mapping: &PvMapping,
        new: Option<GuestVirt>,
    ) -> Result<(), GrantStatus> {
        let (hv, domain) = (caller.hv, caller.domain());
        let seen = (mapping.mfn, kind_of(mapping));
        let removed = domain
            .p2m
            .remove_if(page_of(mapping), seen, &hv.tables(domain));
        if removed != Ok(true) {
            return Err(GrantStatus::GeneralError);
        }
        if let Some(new) = new {
            let page = Gfn(new.0 >> 12);
            let moved = domain.p2m.exchange(page, None, &hv.tables(domain));
            if let Ok(Some(entry)) = moved
                && !set_entry(hv, domain, page_of(mapping), Some((entry.mfn, entry.kind)))
            {
                let_go(hv, entry.mfn, entry.kind);
            }
        }
        Ok(())
    }
}

impl Machine {
    /// A frame of the domain's own, if it has any.
    pub fn some_own_frame(&mut self, at: usize) -> Option<Mfn> {
        self.some_frame_that(at, |_| true)
    }

    /// One that nobody uses.
    pub fn some_idle_frame(&mut self, at: usize) -> Option<Mfn> {
        self.some_frame_that(at, |state| state.count() == 1)
    }

    fn some_frame_that(&mut self, at: usize, is: impl Fn(FrameState) -> bool) -> Option<Mfn> {
        let id = self.doms[at].domain.id();
        let (first, frames) = BANKS[self.random.below(2) as usize];
        let from = self.random.below(frames);
        (from..frames)
            .chain(0..from)
            .map(|n| first.plus(n))
            .find(|mfn| {
                let state = self.hv.memory.record(*mfn).map(|record| record.state());
                state.is_some_and(|state| {
                    state.owner() == Some(id) && state.charge() == Charge::Memory && is(state)
                })
            })
    }

    /// The guest changes its page tables.
    pub fn change_page_tables(&mut self, at: usize, vcpu: &VcpuRef<Sim>) {
        let domain = vcpu.domain().clone();
        let (base, polite) = (self.doms[at].base, self.doms[at].polite);
        let page = match self.random.below(8) {
            0 if !polite => base + DATA + self.random.below(10),
            _ => base + WINDOW + self.random.below(WINDOW_PAGES),
        };
        let page = Gfn(page);
        match self.random.below(8) {
            0..=2 => drop(set_entry(&self.hv, &domain, page, None)),
            3 if self.grant_page(at).is_none() => {
                if let Ok(mfn) = self.hv.grant_frame(&domain, 0) {
                    let table = Gfn(base + GRANT_TABLE);
                    map_own(&self.hv, &domain, table, (mfn, P2mType::XenShared));
                }
            }
            3 => self.mask_upcalls(vcpu),
            4 => self.change_a_table(at, &domain),
            _ => {
                let kind = match self.random.once_in(4) {
                    true => P2mType::RamRo,
                    false => P2mType::RamRw,
                };
                if let Some(mfn) = self.some_own_frame(at) {
                    map_own(&self.hv, &domain, page, (mfn, kind));
                }
            }
        }
    }

    /// A frame becomes a page table, or ceases to be one.
    fn change_a_table(&mut self, at: usize, domain: &DomainRef<Sim>) {
        if self.random.once_in(2)
            && let Some(mfn) = self.doms[at].tables.pop()
        {
            return self.end_table(mfn);
        }
        let Some(mfn) = self.some_own_frame(at) else {
            return;
        };
        let record = self.hv.memory.record(mfn).expect("RAM");
        // One use at a time.
        let unused = record.state().type_count() == 0;
        if unused && let Ok(claim) = record.claim(domain.id(), FrameType::L1) {
            assert!(matches!(claim, Claim::Fresh(_)), "{claim:?}");
            record.begin_table();
            record.set_valid();
            self.doms[at].tables.push(mfn);
        }
    }

    fn end_table(&self, mfn: Mfn) {
        let record = self.hv.memory.record(mfn).expect("RAM");
        assert_eq!(record.release(), Ended::Whole);
        let dropped = record.end_type(self.hv.hal.tlb_stamp());
        if dropped != Dropped::Kept {
            self.hv.frame_dropped(record, mfn, dropped);
        }
    }

    fn mask_upcalls(&self, vcpu: &VcpuRef<Sim>) {
        self.set_upcall_mask(vcpu, 1);
    }

    /// The guest lets itself be told of events, or not, where a byte says so.
    pub fn set_upcall_mask(&self, vcpu: &VcpuRef<Sim>, mask: u8) {
        if let Some(info) = vcpu.domain().info_area(vcpu)
            && vcpu.domain().is_pv()
        {
            let at = info.offset + LAYOUT.vcpu.evtchn_upcall_mask;
            let _ = self.hv.hal.atomic8(info.mfn, at, AtomicOp::Swap(mask));
        }
    }

    /// A dying domain's page tables are taken apart when the core asks for it.
    pub fn drop_page_tables(&mut self, at: usize) {
        let domain = self.doms[at].domain.clone();
        if !self.sim.page_tables_must_go(domain.id()) {
            return;
        }
        while let Some((page, _, _)) = domain.p2m.next_mapped(Gfn(0)) {
            assert!(set_entry(&self.hv, &domain, page, None), "no table is made");
        }
        for mfn in std::mem::take(&mut self.doms[at].tables) {
            self.end_table(mfn);
        }
        self.sim.page_tables_are_gone(domain.id());
    }
}
