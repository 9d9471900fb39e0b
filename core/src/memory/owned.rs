//! Frames that belong to domains: giving them, referring to them, and getting them back with the last reference.
//!
//! A reference is good for as long as it is held, whoever else lets go: the frame keeps its owner and is not used for
//! anything else. The last one to let go scrubs the frame, frees it and takes it off the owner's account.

use xenolith_hal::{Gfn, Hal, Mfn, NoMemory, Order, P2m, P2mEntry, P2mType};

use super::{Charge, DomainTables, Dropped, FrameRecord, FrameType, Place, WritableRef};
use crate::{
    DomId, Domain, DomainRef, Hypervisor,
    domain::{DomainConfig, GuestKind},
};

/// A reference on a domain's frame; dropping it lets go.
pub struct FrameRef<'a, H: Hal> {
    hv: &'a Hypervisor<H>,
    mfn: Mfn,
}

impl<'a, H: Hal> FrameRef<'a, H> {
    /// The frame.
    pub fn mfn(&self) -> Mfn {
        self.mfn
    }

    /// A reference that is held already.
    pub(super) fn adopt(hv: &'a Hypervisor<H>, mfn: Mfn) -> Self {
        Self { hv, mfn }
    }

    pub(super) fn hypervisor(&self) -> &'a Hypervisor<H> {
        self.hv
    }

    /// Keeps the reference beyond this value; somebody calls [`Hypervisor::put_frame`] for it later.
    pub fn keep(self) -> Mfn {
        let mfn = self.mfn;
        core::mem::forget(self);
        mfn
    }
}

impl<H: Hal> Drop for FrameRef<'_, H> {
    fn drop(&mut self) {
        self.hv.put_frame(self.mfn);
    }
}

/// The frame behind a guest frame, held, and what the guest frame was when it was looked up.
pub struct PinnedFrame<'a, H: Hal> {
    /// The reference.
    pub frame: FrameRef<'a, H>,
    /// The translation.
    pub entry: P2mEntry,
    /// Whose frame it is: the domain itself unless the translation is foreign or granted.
    pub owner: DomId,
}

impl<H: Hal> Hypervisor<H> {
    /// Where the p2m of a domain gets its table frames.
    pub fn tables<'a>(&'a self, domain: &'a Domain<H>) -> DomainTables<'a, H> {
        DomainTables::new(&self.hal, &self.memory, &domain.memory)
    }

    /// Gives a domain a new block of memory, counted against what it may own. It is not mapped anywhere yet, and holds
    /// nothing of another domain.
    pub fn allocate_for(
        &self,
        domain: &Domain<H>,
        order: Order,
        place: Place,
    ) -> Result<Mfn, NoMemory> {
        let _in_use = domain.memory.enter().ok_or(NoMemory)?;
        let frames = 1_u64.checked_shl(order).ok_or(NoMemory)?;
        domain.memory.charge(Charge::Memory, frames)?;
        let Some(first) = self.memory.allocate(order, place) else {
            domain.memory.uncharge(Charge::Memory, frames);
            return Err(NoMemory);
        };
        // A domain's frames were cleared when it lost them; what the hypervisor or start-up used was not.
        self.hal.zero_frames(first, order);
        self.set_owner(domain.id(), first, frames, Charge::Memory);
        Ok(first)
    }

    /// Gives a domain exactly these machine frames, all or none.
    pub fn allocate_for_at(
        &self,
        domain: &Domain<H>,
        first: Mfn,
        count: u64,
    ) -> Result<(), NoMemory> {
        let _in_use = domain.memory.enter().ok_or(NoMemory)?;
        domain.memory.charge(Charge::Memory, count)?;
        if self.memory.allocate_at(first, count).is_err() {
            domain.memory.uncharge(Charge::Memory, count);
            return Err(NoMemory);
        }
        self.set_owner(domain.id(), first, count, Charge::Memory);
        Ok(())
    }

    /// Gives a domain the largest block to be had of at most `most` frames.
    pub fn allocate_largest_for(
        &self,
        domain: &Domain<H>,
        most: u64,
        place: Place,
    ) -> Result<(Mfn, Order), NoMemory> {
        let _in_use = domain.memory.enter().ok_or(NoMemory)?;
        let (first, order) = self.memory.allocate_largest(most, place).ok_or(NoMemory)?;
        if domain.memory.charge(Charge::Memory, 1 << order).is_err() {
            self.memory.free(first, order);
            return Err(NoMemory);
        }
        self.set_owner(domain.id(), first, 1 << order, Charge::Memory);
        Ok((first, order))
    }

    /// A zeroed frame of hypervisor memory that the domain may be shown (shared info, grant table frames). It is
    /// counted against the domain's quota; [`Hypervisor::release_shared`] takes it back.
    pub fn allocate_shared(&self, domain: &Domain<H>) -> Result<Mfn, NoMemory> {
        self.allocate_shared_on(&domain.config, &domain.memory)
    }

    pub(crate) fn allocate_shared_on(
        &self,
        owner: &DomainConfig,
        account: &super::DomainMemory,
    ) -> Result<Mfn, NoMemory> {
        let _in_use = account.enter().ok_or(NoMemory)?;
        account.charge(Charge::Hypervisor, 1)?;
        let Some(mfn) = self.memory.allocate(0, Place::ANY) else {
            account.uncharge(Charge::Hypervisor, 1);
            return Err(NoMemory);
        };
        self.hal.zero_frames(mfn, 0);
        self.set_owner(owner.id, mfn, 1, Charge::Hypervisor);
        if H::PV
            && owner.kind == GuestKind::Paravirtual
            && let Some(record) = self.memory.record(mfn)
        {
            // The hypervisor writes into it all the time: it never becomes a page table.
            let used = record.get_type(FrameType::Writable);
            debug_assert!(used.is_ok(), "a new frame is in use");
        }
        Ok(mfn)
    }

    /// Ends the hypervisor's own use of a frame from [`Hypervisor::allocate_shared`]. It is freed when nobody else
    /// (a foreign mapping) holds it.
    pub fn release_shared(&self, domain: &DomainRef<H>, mfn: Mfn) {
        if domain.is_pv() {
            self.end_writing(mfn);
        }
        self.drop_allocation(domain, mfn);
    }

    pub(super) fn set_owner(&self, owner: DomId, first: Mfn, count: u64, charge: Charge) {
        for mfn in (first.0..first.0.saturating_add(count)).map(Mfn) {
            if let Some(record) = self.memory.record(mfn) {
                record.set_owned(owner, charge);
            }
        }
    }

    /// A reference on a frame, if it belongs to `owner`.
    #[inline]
    pub fn get_frame(&self, mfn: Mfn, owner: DomId) -> Option<FrameRef<'_, H>> {
        self.memory
            .record(mfn)?
            .get(owner)
            // Not made before it is held: the value lets go when it is dropped.
            .then(|| FrameRef { hv: self, mfn })
    }

    /// A reference on whatever memory stands behind a guest frame: the domain's own, hypervisor memory shown to it, or
    /// a foreign or granted frame. `None` for devices and for what is not mapped.
    pub fn pin(&self, domain: &Domain<H>, gfn: Gfn) -> Option<PinnedFrame<'_, H>> {
        if domain.is_pv() {
            return self.pin_machine(domain, Mfn(gfn.0));
        }
        domain.p2m.with_entry(gfn, |entry| {
            let entry = entry?;
            let owner = match entry.kind {
                P2mType::MmioDirect => return None,
                P2mType::RamRw | P2mType::RamRo | P2mType::XenShared => domain.id(),
                P2mType::ForeignRw | P2mType::ForeignRo | P2mType::GrantRw | P2mType::GrantRo => {
                    self.memory.record(entry.mfn)?.state().owner()?
                }
            };
            let frame = self.get_frame(entry.mfn, owner)?;
            Some(PinnedFrame {
                frame,
                entry,
                owner,
            })
        })
    }

    /// The same for a paravirtual domain, which names a machine frame and has none but its own.
    fn pin_machine(&self, domain: &Domain<H>, mfn: Mfn) -> Option<PinnedFrame<'_, H>> {
        let frame = self.get_frame(mfn, domain.id())?;
        let kind = match self.memory.record(mfn)?.state().charge() {
            Charge::Memory => P2mType::RamRw,
            Charge::Hypervisor => P2mType::XenShared,
        };
        Some(PinnedFrame {
            frame,
            entry: P2mEntry {
                mfn,
                kind,
                order: 0,
            },
            owner: domain.id(),
        })
    }

    /// The domain's own memory behind a guest frame, held for writing. `None` for anything else, and for what the domain
    /// itself may not write.
    pub fn pin_own(&self, domain: &Domain<H>, gfn: Gfn) -> Option<WritableRef<'_, H>> {
        let pinned = self.pin(domain, gfn)?;
        match pinned.entry.kind {
            P2mType::RamRw => self.get_writable(pinned.frame.mfn(), domain),
            _ => None,
        }
    }

    /// Lets go of a reference that was kept with [`FrameRef::keep`].
    #[inline]
    pub fn put_frame(&self, mfn: Mfn) {
        if let Some(record) = self.memory.record(mfn) {
            match record.put() {
                Dropped::Kept => {}
                dropped => self.dropped(None, mfn, dropped),
            }
        }
    }

    /// Gives up the domain's allocation of a frame; false when the domain had none. The frame is freed when nobody
    /// else holds it.
    pub fn drop_allocation(&self, domain: &DomainRef<H>, mfn: Mfn) -> bool {
        let Some(record) = self.memory.record(mfn) else {
            return false;
        };
        let dropped = record.drop_allocation(domain.id());
        self.dropped(Some(domain), mfn, dropped);
        dropped != Dropped::NotHeld
    }

    #[inline(never)]
    pub(super) fn dropped(&self, known: Option<&DomainRef<H>>, mfn: Mfn, dropped: Dropped) {
        let Dropped::Last { owner, charge } = dropped else {
            debug_assert!(
                dropped == Dropped::Kept || known.is_some(),
                "a reference on {mfn:?} was dropped twice"
            );
            return;
        };
        let found;
        let domain = match known {
            Some(_) => known,
            None => {
                found = self.domains.get(owner);
                found.as_ref()
            }
        };
        if domain.is_none_or(|domain| domain.is_pv()) {
            self.forget_machine_frame(mfn, owner);
        } else if H::PV && self.was_mapped_by_guests(mfn) {
            self.hal.forget_frame(mfn, owner);
        }
        self.hal.zero_frames(mfn, 0);
        self.memory.free(mfn, 0);
        let Some(domain) = domain else { return };
        domain.memory.uncharge(charge, 1);
        if domain.memory.is_closed() {
            self.bury_if_empty(domain);
        }
    }

    /// Whether a paravirtual domain may have had a frame of another one in its page tables.
    fn was_mapped_by_guests(&self, mfn: Mfn) -> bool {
        let record = self.memory.record(mfn);
        record.is_some_and(|record| record.last_unmapped() != Some(0))
    }

    /// The last use of a paravirtual domain's frame is over.
    pub(super) fn forget_machine_frame(&self, mfn: Mfn, owner: DomId) {
        if H::PV {
            self.hal.set_machine_to_phys(mfn, None);
            self.hal.forget_frame(mfn, owner);
        }
    }

    /// The record of a frame that belongs to `owner` at the moment.
    #[inline]
    pub(crate) fn owned_record(&self, mfn: Mfn, owner: DomId) -> Option<&'static FrameRecord> {
        let record = self.memory.record(mfn)?;
        record.state().is_owned_by(owner).then_some(record)
    }
}
