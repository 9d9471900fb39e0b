//! Copying bytes between pages that are granted, or the caller's own.
//!
//! An end that the next element of an array names again is kept: drivers copy the pieces of a packet one after the other.

use xenolith_abi::{
    DomId, GrantRef,
    grant_table::{CopyFlags, CopyPtr, GrantCopy, GrantStatus},
};
use xenolith_hal::{Hal, Mfn, PAGE_SIZE};

use super::{
    entry::{Access, Purpose},
    pin::Pinned,
    split::Range,
};
use crate::{DomainRef, Hypervisor, memory::FrameRef};

/// A pinned grant; dropping it lets go.
struct GrantPin<'a, H: Hal> {
    hv: &'a Hypervisor<H>,
    granter: DomainRef<H>,
    gref: GrantRef,
    access: Access,
    pinned: Pinned,
}

impl<H: Hal> Drop for GrantPin<'_, H> {
    fn drop(&mut self) {
        self.hv.unpin_grant(&self.granter, self.gref, self.access);
    }
}

/// A page that is held for one side of a copy.
enum Page<'a, H: Hal> {
    Granted(GrantPin<'a, H>),
    /// A grant, and the one that passes it on.
    PassedOn(
        GrantPin<'a, H>,
        #[allow(dead_code, reason = "held until the page is let go")] GrantPin<'a, H>,
    ),
    Own(FrameRef<'a, H>),
}

impl<H: Hal> Page<'_, H> {
    fn mfn(&self) -> Mfn {
        match self {
            Self::Granted(pin) | Self::PassedOn(pin, _) => pin.pinned.mfn,
            Self::Own(frame) => frame.mfn(),
        }
    }

    fn range(&self) -> Range {
        match self {
            Self::Granted(pin) | Self::PassedOn(pin, _) => pin.pinned.range,
            Self::Own(_) => Range::PAGE,
        }
    }
}

/// How a side of a copy names its page.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Name {
    Grant(DomId, GrantRef),
    Own(u64),
}

/// One side of the copies, with the page that it used last.
struct Side<'a, H: Hal> {
    access: Access,
    held: Option<(Name, Page<'a, H>)>,
}

/// Makes the copies of one call, one after the other.
pub(super) struct Copier<'a, H: Hal> {
    hv: &'a Hypervisor<H>,
    caller: &'a DomainRef<H>,
    source: Side<'a, H>,
    dest: Side<'a, H>,
}

impl<'a, H: Hal> Copier<'a, H> {
    pub(super) fn new(hv: &'a Hypervisor<H>, caller: &'a DomainRef<H>) -> Self {
        let side = |access| Side { access, held: None };
        Self {
            hv,
            caller,
            source: side(Access::Read),
            dest: side(Access::Write),
        }
    }

    /// Makes one copy.
    pub(super) fn copy(&mut self, op: &GrantCopy) -> Result<(), GrantStatus> {
        let source = self.name(&op.source, op.flags.contains(CopyFlags::SOURCE_GREF))?;
        let dest = self.name(&op.dest, op.flags.contains(CopyFlags::DEST_GREF))?;
        let (from, readable) = self.source.page(self.hv, self.caller, source)?;
        let (to, writable) = self.dest.page(self.hv, self.caller, dest)?;
        let len = usize::from(op.len);
        let inside = |end: &CopyPtr| usize::from(end.offset) + len <= PAGE_SIZE;
        if !inside(&op.source) || !inside(&op.dest) {
            return Err(GrantStatus::BadCopyArg);
        }
        let granted = |range: Range, end: &CopyPtr| range.contains(end.offset.into(), len);
        if !granted(readable, &op.source) || !granted(writable, &op.dest) {
            return Err(GrantStatus::GeneralError);
        }
        let to = (to, usize::from(op.dest.offset));
        let from = (from, usize::from(op.source.offset));
        self.hv
            .hal
            .copy_frame(to, from, len)
            .map_err(|_| GrantStatus::GeneralError)
    }

    /// A frame is named only of the caller itself, and only as `DOMID_SELF`.
    fn name(&self, end: &CopyPtr, granted: bool) -> Result<Name, GrantStatus> {
        if granted {
            let granter = match end.domid {
                DomId::SELF => self.caller.id(),
                named => named,
            };
            return Ok(Name::Grant(granter, end.gref()));
        }
        match end.domid {
            DomId::SELF => Ok(Name::Own(end.gref_or_gfn)),
            other if self.hv.domains.get(other).is_none() => Err(GrantStatus::BadDomain),
            _ => Err(GrantStatus::PermissionDenied),
        }
    }
}

impl<'a, H: Hal> Side<'a, H> {
    fn page(
        &mut self,
        hv: &'a Hypervisor<H>,
        caller: &'a DomainRef<H>,
        name: Name,
    ) -> Result<(Mfn, Range), GrantStatus> {
        if let Some((held, page)) = &self.held
            && *held == name
        {
            return Ok((page.mfn(), page.range()));
        }
        self.held = None;
        let page = self.claim(hv, caller, name)?;
        let found = (page.mfn(), page.range());
        self.held = Some((name, page));
        Ok(found)
    }

    fn claim(
        &self,
        hv: &'a Hypervisor<H>,
        caller: &'a DomainRef<H>,
        name: Name,
    ) -> Result<Page<'a, H>, GrantStatus> {
        let (granter, gref) = match name {
            Name::Own(gfn) => return hv.grantable_frame(caller, gfn, self.access).map(Page::Own),
            Name::Grant(granter, gref) => (granter, gref),
        };
        let pin = self.pin(hv, (granter, gref), caller.id())?;
        let Some((owner, passed_on)) = pin.pinned.passed_on else {
            return Ok(Page::Granted(pin));
        };
        // What is passed on is granted to whoever passes it on, and no further.
        if owner == granter {
            return Err(GrantStatus::GeneralError);
        }
        let inner = self
            .pin(hv, (owner, passed_on), granter)
            .map_err(|_| GrantStatus::GeneralError)?;
        match inner.pinned.passed_on {
            None => Ok(Page::PassedOn(inner, pin)),
            Some(_) => Err(GrantStatus::GeneralError),
        }
    }

    fn pin(
        &self,
        hv: &'a Hypervisor<H>,
        (granter, gref): (DomId, GrantRef),
        grantee: DomId,
    ) -> Result<GrantPin<'a, H>, GrantStatus> {
        let granter = hv.domains.get(granter).ok_or(GrantStatus::BadDomain)?;
        let pinned = hv.pin_grant(&granter, gref, grantee, self.access, Purpose::Copy)?;
        Ok(GrantPin {
            hv,
            granter,
            gref,
            access: self.access,
            pinned,
        })
    }
}
