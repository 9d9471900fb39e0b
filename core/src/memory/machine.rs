//! Memory of paravirtual domains: they are given machine frames, and give them back by name.
//!
//! A frame that its domain gave up stays as it is until its last use ends: it may be mapped, or be a page table. The
//! machine-to-physical table follows.

use xenolith_hal::{Gfn, Hal, Mfn, Order};

use super::{Charge, Place};
use crate::{Domain, DomainRef, Errno, Hypervisor};

/// Why a frame stays whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotHandedOver {
    /// Somebody uses it, or it is not the giver's.
    InUse,
    /// The receiver does not get it.
    Refused,
}

impl<H: Hal> Hypervisor<H> {
    /// Gives a domain one new extent of memory, and notes that it is what the domain calls `pfn`.
    pub(super) fn populate_machine(
        &self,
        domain: &DomainRef<H>,
        pfn: Gfn,
        order: Order,
        place: Place,
    ) -> Result<Mfn, Errno> {
        let first = self
            .allocate_for(domain, order, place)
            .map_err(|_| Errno::ENOMEM)?;
        self.note_pfns(first, pfn, order);
        Ok(first)
    }

    pub(super) fn note_pfns(&self, first: Mfn, pfn: Gfn, order: Order) {
        for n in 0..1 << order {
            self.hal
                .set_machine_to_phys(first.plus(n), Some(pfn.plus(n)));
        }
    }

    /// Makes a frame of one paravirtual domain another's, as it is. `commit` is asked when nothing else stands against it,
    /// and may refuse.
    pub(crate) fn hand_over(
        &self,
        mfn: Mfn,
        giver: &Domain<H>,
        receiver: &Domain<H>,
        commit: impl FnOnce() -> bool,
    ) -> Result<(), NotHandedOver> {
        let refused = NotHandedOver::Refused;
        if !receiver.is_pv() {
            return Err(refused);
        }
        let _in_use = receiver.memory.enter().ok_or(refused)?;
        let record = self.memory.record(mfn).ok_or(NotHandedOver::InUse)?;
        if !record.take_idle(giver.id()) {
            return Err(NotHandedOver::InUse);
        }
        let give = |to: &Domain<H>| self.set_owner(to.id(), mfn, 1, Charge::Memory);
        if receiver.memory.charge(Charge::Memory, 1).is_err() {
            give(giver);
            return Err(refused);
        }
        if !commit() {
            receiver.memory.uncharge(Charge::Memory, 1);
            give(giver);
            return Err(refused);
        }
        self.forget_machine_frame(mfn, giver.id());
        giver.memory.uncharge(Charge::Memory, 1);
        give(receiver);
        Ok(())
    }

    /// Takes frames of a domain's memory away. Stops with an error at one that is not its own.
    pub(super) fn depopulate_machine(
        &self,
        domain: &DomainRef<H>,
        first: Mfn,
        frames: u64,
    ) -> Result<(), Errno> {
        for mfn in (0..frames).map(|n| first.plus(n)) {
            let record = self.owned_record(mfn, domain.id()).ok_or(Errno::ENXIO)?;
            if record.state().charge() != Charge::Memory || !self.drop_allocation(domain, mfn) {
                return Err(Errno::EINVAL);
            }
        }
        Ok(())
    }
}
