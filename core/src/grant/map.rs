//! Mapping grants into the mapper's memory, and undoing it.
//!
//! A translated guest maps a grant at a guest-physical address, for CPUs; how a paravirtual one does is in `pv`. The pin
//! comes before the translation and goes after it, when no TLB holds it any more.

use xenolith_abi::{
    GrantHandle,
    grant_table::{EntryFlags, GrantStatus, MapFlags, MapGrantRef},
};
use xenolith_hal::{Gfn, GuestPhys, Hal, Mfn, P2m, P2mType};

use super::{
    entry::{Access, Purpose},
    maptrack::Mapping,
    pin::Pinned,
};
use crate::{DomainRef, Hypervisor};

/// x86 attributes that an entry may ask its mappings to have; a translated guest cannot have them.
const CACHE_ATTRIBUTES: EntryFlags = EntryFlags::PWT
    .union(EntryFlags::PCD)
    .union(EntryFlags::PAT);

/// What an unmap names.
pub(super) struct Unmap {
    pub(super) handle: GrantHandle,
    /// The address given at map time; 0 leaves the mapping alone.
    pub(super) host_addr: u64,
    /// Address whose mapping moves there; only page tables that the guest sees have that.
    pub(super) new_addr: u64,
}

/// The access that a mapping with these flags gives.
pub(super) fn access(flags: MapFlags) -> Access {
    match flags.contains(MapFlags::READONLY) {
        true => Access::Read,
        false => Access::Write,
    }
}

/// What a mapping with these flags is in the mapper's translation.
fn kind(flags: MapFlags) -> P2mType {
    match access(flags) {
        Access::Read => P2mType::GrantRo,
        Access::Write => P2mType::GrantRw,
    }
}

fn maps_something(op: &MapGrantRef) -> bool {
    op.flags
        .intersects(MapFlags::DEVICE_MAP | MapFlags::HOST_MAP)
}

impl<H: Hal> Hypervisor<H> {
    /// Maps a grant for `mapper`, a translated domain; gives the handle that undoes it and the frame.
    pub(super) fn map_grant(
        &self,
        mapper: &DomainRef<H>,
        op: &MapGrantRef,
    ) -> Result<(GrantHandle, Mfn), GrantStatus> {
        let not_translated =
            MapFlags::DEVICE_MAP | MapFlags::APPLICATION_MAP | MapFlags::CONTAINS_PTE;
        if maps_something(op) && op.flags.intersects(not_translated) {
            return Err(GrantStatus::GeneralError);
        }
        self.map_grant_by(mapper, op, |pinned| {
            let gfn = GuestPhys(op.host_addr).frame();
            self.place_grant(mapper, gfn, op.flags, pinned)
        })
    }

    /// Maps a grant for `mapper` as `place` does it.
    #[inline]
    pub(super) fn map_grant_by(
        &self,
        mapper: &DomainRef<H>,
        op: &MapGrantRef,
        place: impl FnOnce(&Pinned) -> Result<(), GrantStatus>,
    ) -> Result<(GrantHandle, Mfn), GrantStatus> {
        if !maps_something(op) {
            return Err(GrantStatus::BadGntref);
        }
        let granter = self.domains.get(op.dom).ok_or(GrantStatus::BadDomain)?;
        let track = &mapper.grants.maptrack;
        let handle = track
            .take_handle(&mapper.memory, &mapper.grants.charged)
            .map_err(|_| GrantStatus::NoSpace)?;
        match self.map_with_handle(mapper, granter, op, handle, place) {
            Ok(mfn) => Ok((handle, mfn)),
            Err(status) => {
                track.give_back(handle);
                Err(status)
            }
        }
    }

    fn map_with_handle(
        &self,
        mapper: &DomainRef<H>,
        granter: DomainRef<H>,
        op: &MapGrantRef,
        handle: GrantHandle,
        place: impl FnOnce(&Pinned) -> Result<(), GrantStatus>,
    ) -> Result<Mfn, GrantStatus> {
        let access = access(op.flags);
        let pinned = self.pin_grant(&granter, op.gref, mapper.id(), access, Purpose::Map)?;
        if let Err(status) = place(&pinned) {
            self.unpin_grant(&granter, op.gref, access);
            return Err(status);
        }
        let mapping = Mapping {
            granter,
            gref: op.gref,
            gfn: GuestPhys(op.host_addr).frame(),
            mfn: pinned.mfn,
            flags: op.flags,
        };
        mapper.grants.maptrack.put(handle, mapping);
        Ok(pinned.mfn)
    }

    /// Puts a pinned grant into the mapper's translation, in place of whatever was there.
    fn place_grant(
        &self,
        mapper: &DomainRef<H>,
        gfn: Gfn,
        flags: MapFlags,
        pinned: &Pinned,
    ) -> Result<(), GrantStatus> {
        let plain = MapFlags::HOST_MAP | MapFlags::READONLY;
        if !plain.contains(flags) || pinned.flags.intersects(CACHE_ATTRIBUTES) {
            return Err(GrantStatus::GeneralError);
        }
        let new = Some((pinned.mfn, kind(flags)));
        let old = mapper
            .p2m
            .exchange(gfn, new, &self.tables(mapper))
            .map_err(|_| GrantStatus::GeneralError)?;
        if let Some(old) = old {
            self.let_go_replaced(mapper, gfn, &old);
        }
        Ok(())
    }

    /// Undoes a mapping of `mapper`, a translated domain.
    pub(super) fn unmap_grant(&self, mapper: &DomainRef<H>, op: &Unmap) -> Result<(), GrantStatus> {
        let track = &mapper.grants.maptrack;
        let mapping = track.take(op.handle).ok_or(GrantStatus::BadHandle)?;
        if op.host_addr == 0 {
            track.put_back(op.handle, mapping);
            return Ok(());
        }
        let named = op.new_addr == 0 && GuestPhys(op.host_addr).frame() == mapping.gfn;
        if !named || !self.displace_grant(mapper, &mapping) {
            track.put_back(op.handle, mapping);
            return Err(GrantStatus::GeneralError);
        }
        self.end_mapping(mapper, op.handle, mapping);
        Ok(())
    }

    /// Lets go of what a mapping held that is no more.
    #[inline]
    pub(super) fn end_mapping(
        &self,
        mapper: &DomainRef<H>,
        handle: GrantHandle,
        mapping: Mapping<H>,
    ) {
        self.unpin_grant(&mapping.granter, mapping.gref, access(mapping.flags));
        drop(mapping);
        mapper.grants.maptrack.give_back(handle);
    }

    /// Takes a mapping out of the mapper's translation; false when something else is there by now.
    pub(super) fn displace_grant(&self, mapper: &DomainRef<H>, mapping: &Mapping<H>) -> bool {
        let expected = (mapping.mfn, kind(mapping.flags));
        let removed = mapper
            .p2m
            .remove_if(mapping.gfn, expected, &self.tables(mapper));
        removed == Ok(true)
    }
}
