//! Putting pages into the physical map and taking them out.

use alloc::sync::Arc;
use core::cmp::Ordering;

use xenolith_abi::{
    DomId as WireDomId,
    memory::{
        AcquireResource, AddToPhysmap, AddToPhysmapBatch, MapSpace, RESOURCE_GRANT_TABLE_SHARED,
        RESOURCE_GRANT_TABLE_STATUS, RemoveFromPhysmap, Resource,
    },
    narrow::Long,
};
use xenolith_hal::{Gfn, GuestVirt, Hal, P2mType};

use super::Call;
use crate::{
    DomId, DomainRef, Errno,
    grant::{self, Format},
    hypercall::Outcome,
    memory::physmap::Shown,
};

/// One page to be put into a map.
struct Page {
    space: u32,
    index: u64,
    gfn: Gfn,
    /// The other domain, for foreign pages.
    foreign: WireDomId,
}

impl<H: Hal> Call<'_, H> {
    /// The domain whose map is changed. Device memory is only mapped by the control domain for itself.
    fn map_target(&self, name: WireDomId, space: u32) -> Result<DomainRef<H>, Errno> {
        let domain = self.lookup(name)?;
        if domain.is_pv() {
            return Err(Errno::EACCES);
        }
        let own = self.caller.domain();
        if space == MapSpace::DevMmio.number()
            && !(own.config.privileged && Arc::ptr_eq(&domain, own))
        {
            return Err(Errno::EACCES);
        }
        self.may_control(&domain)?;
        Ok(domain)
    }

    /// `XENMEM_add_to_physmap`.
    pub(super) fn add_to_physmap(&self) -> Result<i64, Errno> {
        let wanted = self.caller.read::<AddToPhysmap>(self.arg)?;
        if wanted.space == MapSpace::GmfnForeign.number() {
            return Err(Errno::ENOSYS);
        }
        let domain = self.map_target(wanted.domid, wanted.space)?;
        if wanted.space == MapSpace::GmfnRange.number() {
            // Moving pages of the own map is for x86; only the size is looked at before the space.
            return match self.done.cmp(&u64::from(wanted.size)) {
                Ordering::Less => Err(Errno::ENOSYS),
                Ordering::Equal => Ok(0),
                Ordering::Greater => Err(Errno::EILSEQ),
            };
        }
        let page = Page {
            space: wanted.space,
            index: wanted.idx,
            gfn: Gfn(wanted.gpfn),
            foreign: WireDomId::INVALID,
        };
        self.add_page(&domain, &page)?;
        Ok(0)
    }

    /// `XENMEM_add_to_physmap_batch`: an error number for each page; the call itself fails only for bad arguments.
    pub(super) fn add_to_physmap_batch(&self) -> Outcome {
        self.add_pages().unwrap_or_else(|errno| Err(errno).into())
    }

    fn add_pages(&self) -> Result<Outcome, Errno> {
        let wanted = self.caller.read::<AddToPhysmapBatch>(self.arg)?;
        let space = u32::from(wanted.space);
        if space == MapSpace::GmfnRange.number() {
            return Err(Errno::EOPNOTSUPP);
        }
        let domain = self.map_target(wanted.domid, space)?;
        if self.done > u64::from(wanted.size) {
            return Err(Errno::EILSEQ);
        }
        for n in self.done..u64::from(wanted.size) {
            if n != self.done && self.preempted() {
                return Ok(self.again(n));
            }
            let Long(index) = self.caller.read_at(GuestVirt(wanted.idxs.address()), n)?;
            let Long(gfn) = self.caller.read_at(GuestVirt(wanted.gpfns.address()), n)?;
            let page = Page {
                space,
                index,
                gfn: Gfn(gfn),
                foreign: wanted.foreign_domid,
            };
            let error = match self.add_page(&domain, &page) {
                Ok(()) => 0,
                Err(errno) => errno.neg_i32(),
            };
            self.caller
                .write_at(GuestVirt(wanted.errs.address()), n, &error)?;
        }
        Ok(Outcome::Done(0))
    }

    fn add_page(&self, domain: &DomainRef<H>, page: &Page) -> Result<(), Errno> {
        let hv = self.caller.hv;
        let _in_use = domain.memory.enter().ok_or(Errno::ESRCH)?;
        match MapSpace::try_from(page.space)? {
            MapSpace::SharedInfo if page.index != 0 => Err(Errno::EINVAL),
            MapSpace::SharedInfo => hv.show(domain, page.gfn, Shown::SharedInfo),
            MapSpace::GrantTable => {
                let mfn = hv.grant_frame_for_physmap(domain, page.index, page.gfn)?;
                hv.show(domain, page.gfn, Shown::Grant(mfn))
            }
            MapSpace::GmfnForeign => {
                let owner = self.foreign_owner(domain, page.foreign)?;
                hv.map_foreign(domain, page.gfn, &owner, Gfn(page.index))
            }
            MapSpace::DevMmio if page.foreign != WireDomId(0) => Err(Errno::EOPNOTSUPP),
            // The devices that a domain may use are mapped when it is built; a request for others is let pass
            // without effect, as Xen does.
            MapSpace::DevMmio => Ok(()),
            MapSpace::Gmfn | MapSpace::GmfnRange => Err(Errno::ENOSYS),
        }
    }

    /// The domain whose pages are mapped into `domain`, which must control it.
    fn foreign_owner(&self, domain: &DomainRef<H>, name: WireDomId) -> Result<DomainRef<H>, Errno> {
        let name = DomId(name.0);
        if name == self.caller.domain().id() || name == DomId::SELF {
            return Err(Errno::ESRCH);
        }
        let owner = self.caller.hv.domains.get(name).ok_or(Errno::ESRCH)?;
        if Arc::ptr_eq(&owner, domain) {
            return Err(Errno::EINVAL);
        }
        domain
            .config
            .privileged
            .then_some(owner)
            .ok_or(Errno::EPERM)
    }

    /// `XENMEM_remove_from_physmap`.
    pub(super) fn remove_from_physmap(&self) -> Result<i64, Errno> {
        let wanted = self.caller.read::<RemoveFromPhysmap>(self.arg)?;
        let domain = self.lookup(wanted.domid)?;
        if domain.is_pv() {
            return Err(Errno::EACCES);
        }
        self.may_control(&domain)?;
        let _in_use = domain.memory.enter().ok_or(Errno::ESRCH)?;
        self.caller.hv.remove_from_map(&domain, Gfn(wanted.gpfn))?;
        Ok(0)
    }

    /// `XENMEM_acquire_resource`: a tool maps frames of a resource that another domain has.
    pub(super) fn acquire_resource(&self) -> Outcome {
        self.acquire().unwrap_or_else(|errno| Err(errno).into())
    }

    fn acquire(&self) -> Result<Outcome, Errno> {
        let (hv, own) = (self.caller.hv, self.caller.domain());
        let mut wanted = self.caller.read::<AcquireResource>(self.arg)?;
        if wanted.pad != 0 {
            return Err(Errno::EINVAL);
        }
        let domain = self.lookup(wanted.domid)?;
        if Arc::ptr_eq(&domain, own) || !own.config.privileged {
            return Err(Errno::EPERM);
        }
        // The other kinds need what no domain has: request servers, processor traces.
        if wanted.kind != Resource::GrantTable.number() {
            return Err(Errno::EINVAL);
        }
        let status = match wanted.id {
            RESOURCE_GRANT_TABLE_SHARED => false,
            RESOURCE_GRANT_TABLE_STATUS if domain.grants.settled_format() == Format::V2 => true,
            _ => return Err(Errno::EINVAL),
        };
        if wanted.frame_list.is_null() {
            if wanted.nr_frames != 0 {
                return Err(Errno::EINVAL);
            }
            wanted.nr_frames = match status {
                true => grant::MAX_STATUS_FRAMES,
                false => grant::MAX_FRAMES,
            };
            self.caller.write(self.arg, &wanted)?;
            return Ok(Outcome::Done(0));
        }
        let frames = u64::from(wanted.nr_frames);
        if self.done >= frames {
            return Err(Errno::EINVAL);
        }
        let _in_use = own.memory.enter().ok_or(Errno::ESRCH)?;
        let list = GuestVirt(wanted.frame_list.address());
        for n in self.done..frames {
            if n != self.done && self.preempted() {
                return Ok(self.again(n));
            }
            let index = wanted.frame.saturating_add(n);
            let frame = || match status {
                true => hv.grant_status_frame(&domain, index),
                false => hv.grant_frame(&domain, index),
            };
            if own.is_pv() {
                // It maps them itself.
                self.caller.write_at(list, n, &Long(frame()?.0))?;
                continue;
            }
            let Long(gfn) = self.caller.read_at(list, n)?;
            let (gfn, mfn) = (Gfn(gfn), frame()?);
            hv.map_held(own, gfn, mfn, P2mType::ForeignRw, &domain)?;
        }
        Ok(Outcome::Done(0))
    }
}
