//! Questions about a domain's memory.

use core::sync::atomic::Ordering::Relaxed;

use xenolith_abi::memory::{
    ForeignMemoryMap, MemoryDomain, MemoryMap, MemoryOp, PodTarget, RDM_ALL,
    ReservedDeviceMemoryMap, VnumaTopologyInfo,
};
use xenolith_hal::{Gfn, GuestVirt, Hal, P2m};

use super::{Call, machine::last_pfn};
use crate::{Domain, Errno, hypercall::Privilege};

impl<H: Hal> Call<'_, H> {
    /// `XENMEM_current_reservation`, `_maximum_reservation` and `_maximum_gpfn`.
    pub(super) fn ask(&self, op: MemoryOp) -> Result<i64, Errno> {
        let asked = self.caller.read::<MemoryDomain>(self.arg)?;
        let domain = self.target(asked.domid)?;
        let frames = match op {
            MemoryOp::CurrentReservation => domain.memory.owned.load(Relaxed),
            MemoryOp::MaximumReservation => domain.memory.max.load(Relaxed),
            _ if domain.is_pv() => last_pfn(&self.caller.hv.hal, &domain),
            _ => highest_mapped(&domain),
        };
        Ok(i64::try_from(frames).unwrap_or(i64::MAX))
    }

    /// `XENMEM_memory_map`: as many entries as the caller has room for.
    pub(super) fn memory_map(&self) -> Result<i64, Errno> {
        let hal = &self.caller.hv.hal;
        let domain = self.caller.domain();
        let map = hal.memory_map(&domain.arch).filter(|map| !map.is_empty());
        // Whether the argument can be read is told first.
        let mut asked = self.caller.read::<MemoryMap>(self.arg)?;
        let map = map.ok_or(Errno::ENOSYS)?;
        asked.nr_entries = asked.nr_entries.min(map.len() as u32);
        let buffer = GuestVirt(asked.buffer.address());
        for (entry, at) in map.iter().zip(0..u64::from(asked.nr_entries)) {
            self.caller.write_at(buffer, at, entry)?;
        }
        self.caller.write(self.arg, &asked)?;
        Ok(0)
    }

    /// `XENMEM_set_memory_map`: maps are given when a domain is made.
    pub(super) fn set_memory_map(&self) -> Result<i64, Errno> {
        let wanted = self.caller.read::<ForeignMemoryMap>(self.arg)?;
        self.target(wanted.domid)?;
        Err(Errno::ENOSYS)
    }

    /// `XENMEM_set_pod_target` and `_get_pod_target`: all memory of a domain is there from the start.
    pub(super) fn populate_on_demand(&self) -> Result<i64, Errno> {
        let mut asked = self.caller.read::<PodTarget>(self.arg)?;
        let domain = self.lookup(asked.domid)?;
        Privilege::of(self.caller)?;
        asked.tot_pages = domain.memory.owned.load(Relaxed);
        asked.pod_cache_pages = 0;
        asked.pod_entries = 0;
        self.caller.write(self.arg, &asked)?;
        Ok(0)
    }

    /// `XENMEM_access_op`: nobody listens to accesses.
    pub(super) fn access_op(&self) -> Result<i64, Errno> {
        self.caller.read::<[u8; 16]>(self.arg)?;
        Privilege::of(self.caller)?;
        Err(Errno::ENODEV)
    }

    /// `XENMEM_get_vnumainfo`: no domain has a virtual topology.
    pub(super) fn vnuma_topology(&self) -> Result<i64, Errno> {
        let asked = self.caller.read::<VnumaTopologyInfo>(self.arg)?;
        if asked.pad != 0 {
            return Err(Errno::EINVAL);
        }
        self.target(asked.domid)?;
        Err(Errno::EOPNOTSUPP)
    }

    /// `XENMEM_reserved_device_memory_map`: no device needs a region left alone.
    pub(super) fn reserved_device_memory(&self) -> Result<i64, Errno> {
        let mut asked = self.caller.read::<ReservedDeviceMemoryMap>(self.arg)?;
        if asked.flags & !RDM_ALL != 0 {
            return Err(Errno::EINVAL);
        }
        asked.nr_entries = 0;
        self.caller.write(self.arg, &asked)?;
        Ok(0)
    }
}

/// The highest guest frame that something is mapped at; 0 when nothing is. Found by halving, not by walking.
fn highest_mapped<H: Hal>(domain: &Domain<H>) -> u64 {
    let (mut low, mut high) = (0, domain.p2m.limit().0);
    // Something is mapped at or after `low` (or nothing at all), nothing at or after `high`.
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        match domain.p2m.next_mapped(Gfn(middle)) {
            Some((at, _, left)) => low = at.plus(left - 1).0.clamp(middle, high - 1),
            None => high = middle,
        }
    }
    low
}
