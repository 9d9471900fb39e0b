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
}

impl<H: Hal> Drop for GrantPin<'_, H> {
    fn drop(&mut self) {
        self.hv.unpin_grant(&self.granter, self.gref, self.access);
    }
}

/// What keeps a page where it is.
#[allow(dead_code, reason = "held until the page is let go")]
enum Hold<'a, H: Hal> {
    Granted(GrantPin<'a, H>),
    Own(FrameRef<'a, H>),
}

/// How a side of a copy names its page.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Name {
    Grant(DomId, GrantRef),
    Own(u64),
}

/// One side of the copies, with the page that it used last. Its parts lie side by side, so that none is moved about for
/// every page of every copy.
struct Side<'a, H: Hal> {
    access: Access,
    name: Name,
    mfn: Mfn,
    range: Range,
    /// Unless something is held, the page is none.
    held: Option<Hold<'a, H>>,
    /// The grant that passed the held one on.
    through: Option<GrantPin<'a, H>>,
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
        let side = |access| Side {
            access,
            name: Name::Own(0),
            mfn: Mfn(0),
            range: Range::PAGE,
            held: None,
            through: None,
        };
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
        if self.held.is_some() {
            if self.name == name {
                return Ok((self.mfn, self.range));
            }
            self.let_go();
        }
        let (granter, gref) = match name {
            Name::Own(gfn) => {
                let frame = hv.grantable_frame(caller, gfn, self.access)?;
                let (mfn, range) = (frame.mfn(), Range::PAGE);
                return Ok(self.hold(name, (mfn, range), Hold::Own(frame)));
            }
            Name::Grant(granter, gref) => (granter, gref),
        };
        let (pin, pinned) = self.pin(hv, (granter, gref), caller.id())?;
        if let Some(passed_on) = pinned.passed_on {
            return self.follow(name, pin, granter, passed_on);
        }
        Ok(self.hold(name, (pinned.mfn, pinned.range), Hold::Granted(pin)))
    }

    #[inline(always)]
    fn hold(&mut self, name: Name, (mfn, range): (Mfn, Range), hold: Hold<'a, H>) -> (Mfn, Range) {
        (self.name, self.mfn, self.range) = (name, mfn, range);
        self.held = Some(hold);
        (mfn, range)
    }

    fn let_go(&mut self) {
        self.held = None;
        self.through = None;
    }

    /// Holds the grant that `granter` passes on by `pin`. What is passed on is granted to whoever passes it on, and no
    /// further.
    #[cold]
    fn follow(
        &mut self,
        name: Name,
        pin: GrantPin<'a, H>,
        granter: DomId,
        (owner, passed_on): (DomId, GrantRef),
    ) -> Result<(Mfn, Range), GrantStatus> {
        if owner == granter {
            return Err(GrantStatus::GeneralError);
        }
        let (inner, pinned) = self
            .pin(pin.hv, (owner, passed_on), granter)
            .map_err(|_| GrantStatus::GeneralError)?;
        if pinned.passed_on.is_some() {
            return Err(GrantStatus::GeneralError);
        }
        self.through = Some(pin);
        Ok(self.hold(name, (pinned.mfn, pinned.range), Hold::Granted(inner)))
    }

    #[inline(always)]
    fn pin(
        &self,
        hv: &'a Hypervisor<H>,
        (granter, gref): (DomId, GrantRef),
        grantee: DomId,
    ) -> Result<(GrantPin<'a, H>, Pinned), GrantStatus> {
        let granter = hv.domains.get(granter).ok_or(GrantStatus::BadDomain)?;
        let pinned = hv.pin_grant(&granter, gref, grantee, self.access, Purpose::Copy)?;
        let pin = GrantPin {
            hv,
            granter,
            gref,
            access: self.access,
        };
        Ok((pin, pinned))
    }
}
