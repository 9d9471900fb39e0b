//! Memory of paravirtual domains: they are given machine frames, and give them back by name.
//!
//! A frame that its domain gave up stays as it is until its last use ends: it may be mapped, or be a page table. The
//! machine-to-physical table follows.

use xenolith_hal::{Gfn, Hal, Mfn, Order};

use super::{Charge, Place};
use crate::{DomainRef, Errno, Hypervisor};

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
