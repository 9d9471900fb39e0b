//! Growing and shrinking a domain's memory by extents, and the claims of tools.

use xenolith_abi::memory::{MemFlags, MemoryOp, Reservation};
use xenolith_abi::narrow::Long;
use xenolith_hal::{Gfn, GuestVirt, Hal, Order, PAGE_SHIFT};

use super::Call;
use crate::{
    DomainRef, Errno,
    hypercall::Outcome,
    memory::{MAX_ORDER, Node, Place},
};

/// Largest extent that an ordinary domain may ask for (Xen's `memop-max-order` default): 2 MiB.
const DOMU_MAX_ORDER: Order = 9;
/// And a control domain: 1 GiB.
const CONTROL_MAX_ORDER: Order = MAX_ORDER;

impl<H: Hal> Call<'_, H> {
    pub(super) fn max_order(&self) -> Order {
        if self.caller.domain().config.privileged {
            CONTROL_MAX_ORDER
        } else {
            DOMU_MAX_ORDER
        }
    }

    /// Where the caller wants its memory; `None` for wishes that cannot be met.
    pub(super) fn place(&self, flags: MemFlags) -> Option<Place> {
        let bits = flags.address_bits();
        if flags.0 & MemFlags::VNODE.0 != 0 || (bits != 0 && bits <= PAGE_SHIFT) {
            return None;
        }
        Some(Place {
            node: flags.node().map(Node),
            bits: (bits != 0).then_some(bits),
        })
    }

    /// `XENMEM_increase_reservation`, `_decrease_reservation` and `_populate_physmap`.
    pub(super) fn change_reservation(&self, op: MemoryOp) -> Outcome {
        let nothing = Outcome::Done(self.done as i64);
        let Ok(wanted) = self.caller.read::<Reservation>(self.arg) else {
            return nothing;
        };
        // The number of extents must fit a continuation, as on Xen.
        if wanted.nr_extents > u64::from(u32::MAX >> 6) || self.done >= wanted.nr_extents {
            return nothing;
        }
        let (Ok(domain), Some(place)) = (self.target(wanted.domid), self.place(wanted.mem_flags))
        else {
            return nothing;
        };
        let Some(_in_use) = domain.memory.enter() else {
            return nothing;
        };
        if wanted.extent_order > self.max_order() {
            return nothing;
        }
        for n in self.done..wanted.nr_extents {
            if n != self.done && self.preempted() {
                return self.again(n);
            }
            if self.change_extent(op, &domain, &wanted, place, n).is_err() {
                return Outcome::Done(n as i64);
            }
        }
        Outcome::Done(wanted.nr_extents as i64)
    }

    fn change_extent(
        &self,
        op: MemoryOp,
        domain: &DomainRef<H>,
        wanted: &Reservation,
        place: Place,
        n: u64,
    ) -> Result<(), Errno> {
        if domain.is_pv() {
            return self.change_machine_extent(op, domain, wanted, place, n);
        }
        let (hv, order) = (self.caller.hv, wanted.extent_order);
        let extent = || {
            let list = GuestVirt(wanted.extent_start.address());
            let Long(gfn) = self.caller.read_at(list, n)?;
            Ok(Gfn(gfn))
        };
        match op {
            MemoryOp::PopulatePhysmap
                if wanted.mem_flags.0 & MemFlags::POPULATE_ON_DEMAND.0 != 0 =>
            {
                Err(Errno::ENOSYS)
            }
            MemoryOp::PopulatePhysmap => hv.populate(domain, extent()?, order, place),
            MemoryOp::DecreaseReservation => hv.depopulate(domain, extent()?, 1 << order),
            // A translated guest is not told machine frames: what it gets is its own but mapped nowhere.
            _ => hv
                .allocate_for(domain, order, place)
                .map(drop)
                .map_err(|_| Errno::ENOMEM),
        }
    }

    /// `XENMEM_claim_pages`: tells whether the memory is there. Nothing is set aside.
    pub(super) fn claim_pages(&self) -> Result<i64, Errno> {
        let own = self.caller.domain();
        let wanted = self.caller.read::<Reservation>(self.arg)?;
        if !wanted.extent_start.is_null() || wanted.extent_order != 0 || wanted.mem_flags.0 != 0 {
            return Err(Errno::EINVAL);
        }
        let domain = self.target(wanted.domid)?;
        if !own.config.privileged {
            return Err(Errno::EPERM);
        }
        let owned = domain
            .memory
            .owned
            .load(core::sync::atomic::Ordering::Relaxed);
        let missing = wanted.nr_extents.saturating_sub(owned);
        if missing > self.caller.hv.memory.free_frames() {
            return Err(Errno::ENOMEM);
        }
        Ok(0)
    }
}
