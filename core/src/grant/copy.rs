//! Copying bytes between pages that are granted, or the caller's own.
//!
//! A grant stays pinned until an element of the array names another one on the same side: drivers copy the pieces of a packet
//! one after the other. The caller's own page is found anew for each element, and its translation held while bytes are copied; no
//! second one is looked up meanwhile.

use xenolith_abi::{
    DomId, GrantRef,
    grant_table::{CopyFlags, CopyPtr, GrantCopy, GrantStatus},
};
use xenolith_hal::{Gfn, Hal, Mfn, P2m, PAGE_SIZE};

use super::{
    entry::{Access, Purpose},
    op::status_of,
    pin::Pinned,
    split::Range,
};
use crate::{DomainRef, Hypervisor, guest::Caller};

/// A pinned grant; dropping it lets go.
struct GrantPin<'a, H: Hal> {
    hv: &'a Hypervisor<H>,
    granter: DomainRef<H>,
    gref: GrantRef,
    access: Access,
}

impl<H: Hal> Drop for GrantPin<'_, H> {
    #[inline]
    fn drop(&mut self) {
        self.hv.unpin_grant(&self.granter, self.gref, self.access);
    }
}

/// How a side of a copy names its page.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Name {
    Grant(DomId, GrantRef),
    Own(u64),
}

/// A page, and what of it may be used.
#[derive(Clone, Copy)]
struct Page {
    mfn: Mfn,
    range: Range,
}

impl Page {
    const fn whole(mfn: Mfn) -> Self {
        let range = Range::PAGE;
        Self { mfn, range }
    }
}

/// A grant in use.
struct Held<'a, H: Hal> {
    _pin: GrantPin<'a, H>,
    name: (DomId, GrantRef),
    page: Page,
}

/// The grants of one side of the copies: the one that it used last.
struct Side<'a, H: Hal> {
    access: Access,
    held: Option<Held<'a, H>>,
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
    #[inline]
    pub(super) fn new(hv: &'a Hypervisor<H>, caller: &'a DomainRef<H>) -> Self {
        let side = |access| Side {
            access,
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
    #[inline]
    pub(super) fn copy(&mut self, op: &GrantCopy) -> Result<(), GrantStatus> {
        let (hv, caller) = (self.hv, self.caller);
        let source = self.name(&op.source, op.flags.contains(CopyFlags::SOURCE_GREF))?;
        let dest = self.name(&op.dest, op.flags.contains(CopyFlags::DEST_GREF))?;
        match (source, dest) {
            (Name::Grant(owner, gref), Name::Own(to)) => {
                let from = self.source.granted(hv, caller, (owner, gref))?;
                hv.with_own_page(caller, to, Access::Write, |to| transfer(hv, op, from, to))
            }
            (Name::Own(from), Name::Grant(owner, gref)) => {
                let to = self.dest.granted(hv, caller, (owner, gref));
                hv.with_own_page(caller, from, Access::Read, |from| {
                    // What is wrong with the source is told first.
                    transfer(hv, op, from, to?)
                })
            }
            (Name::Grant(owner, gref), Name::Grant(to_owner, to_gref)) => {
                let from = self.source.granted(hv, caller, (owner, gref))?;
                let to = self.dest.granted(hv, caller, (to_owner, to_gref))?;
                transfer(hv, op, from, to)
            }
            (Name::Own(from), Name::Own(to)) => {
                let from = hv.copyable_frame(caller, from, Access::Read)?;
                let page = Page::whole(from.mfn());
                hv.with_own_page(caller, to, Access::Write, |to| transfer(hv, op, page, to))
            }
        }
    }

    /// A frame is named only of the caller itself, and only as `DOMID_SELF`.
    #[inline(always)]
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

/// Makes the copy of a call that has no other: between a grant and the caller's own memory nothing is kept for later.
#[inline]
pub(super) fn copy_alone<H: Hal>(
    hv: &Hypervisor<H>,
    caller: &DomainRef<H>,
    op: &GrantCopy,
) -> Result<(), GrantStatus> {
    let by_grant = CopyFlags::SOURCE_GREF | CopyFlags::DEST_GREF;
    let (granted, own, access) = match op.flags.intersection(by_grant) {
        CopyFlags::SOURCE_GREF => (&op.source, &op.dest, Access::Read),
        CopyFlags::DEST_GREF => (&op.dest, &op.source, Access::Write),
        _ => return Copier::new(hv, caller).copy(op),
    };
    let other;
    let granter = match granted.domid {
        id if id == DomId::SELF || id == caller.id() => caller,
        id => match hv.domains.get(id) {
            Some(found) => {
                other = found;
                &other
            }
            None => return Copier::new(hv, caller).copy(op),
        },
    };
    if own.domid != DomId::SELF {
        return Copier::new(hv, caller).copy(op);
    }
    let gref = granted.gref();
    // What is wrong is told as for any other copy, by making it so.
    let Some(place) = granter.grants.entry(gref) else {
        return Copier::new(hv, caller).copy(op);
    };
    let pinned = hv.pin_whole_at(granter, &place, caller.id(), access, Purpose::Copy);
    let Ok(Some((mfn, _))) = pinned else {
        return Copier::new(hv, caller).copy(op);
    };
    let page = Page::whole(mfn);
    let copied = match access {
        Access::Read => hv.with_own_page(caller, own.gref_or_gfn, Access::Write, |to| {
            transfer(hv, op, page, to)
        }),
        Access::Write => hv.with_own_page(caller, own.gref_or_gfn, Access::Read, |from| {
            transfer(hv, op, from, page)
        }),
    };
    hv.unpin_grant_at(granter, &place, gref, access);
    copied
}

/// Serves the only element of a `GNTTABOP_copy`, and gives its status.
#[inline]
pub fn copy_one<H: Hal>(caller: Caller<'_, H>, op: &GrantCopy) -> u16 {
    status_of(copy_alone(caller.hv, caller.domain(), op))
}

/// Copies what an element says from one page to the other.
#[inline]
fn transfer<H: Hal>(
    hv: &Hypervisor<H>,
    op: &GrantCopy,
    from: Page,
    to: Page,
) -> Result<(), GrantStatus> {
    let len = usize::from(op.len);
    let (source, dest) = (usize::from(op.source.offset), usize::from(op.dest.offset));
    if source + len > PAGE_SIZE || dest + len > PAGE_SIZE {
        return Err(GrantStatus::BadCopyArg);
    }
    if !from.range.contains(source, len) || !to.range.contains(dest, len) {
        return Err(GrantStatus::GeneralError);
    }
    hv.hal
        .copy_frame((to.mfn, dest), (from.mfn, source), len)
        .map_err(|_| GrantStatus::GeneralError)
}

impl<H: Hal> Hypervisor<H> {
    /// Calls `f` with a page of memory of the domain's own, which stays its own until `f` returns.
    #[inline(always)]
    fn with_own_page(
        &self,
        owner: &DomainRef<H>,
        gfn: u64,
        access: Access,
        f: impl FnOnce(Page) -> Result<(), GrantStatus>,
    ) -> Result<(), GrantStatus> {
        if owner.is_pv() {
            let frame = self.copyable_frame(owner, gfn, access)?;
            let result = f(Page::whole(frame.mfn()));
            if access == Access::Write {
                self.put_writable(frame.keep());
            }
            return result;
        }
        owner.p2m.with_entry(Gfn(gfn), |entry| {
            let entry = entry.filter(|entry| access.suits(entry.kind));
            let mfn = entry.ok_or(GrantStatus::BadPage)?.mfn;
            self.owned_record(mfn, owner.id())
                .ok_or(GrantStatus::BadPage)?;
            f(Page::whole(mfn))
        })
    }
}

impl<'a, H: Hal> Side<'a, H> {
    /// The page of a grant, which stays pinned until this side uses another one.
    #[inline(always)]
    fn granted(
        &mut self,
        hv: &'a Hypervisor<H>,
        caller: &'a DomainRef<H>,
        name: (DomId, GrantRef),
    ) -> Result<Page, GrantStatus> {
        if self.held.as_ref().is_none_or(|held| held.name != name) {
            self.take(hv, caller, name)?;
        }
        let held = self.held.as_ref().ok_or(GrantStatus::GeneralError)?;
        Ok(held.page)
    }

    #[inline(never)]
    fn take(
        &mut self,
        hv: &'a Hypervisor<H>,
        caller: &'a DomainRef<H>,
        name: (DomId, GrantRef),
    ) -> Result<(), GrantStatus> {
        if self.held.is_some() {
            self.let_go();
        }
        let (owner, gref) = name;
        let access = self.access;
        let granter = match owner == caller.id() {
            true => caller.clone(),
            false => hv.domains.get(owner).ok_or(GrantStatus::BadDomain)?,
        };
        match hv.pin_whole(&granter, gref, caller.id(), access, Purpose::Copy)? {
            Some((mfn, _)) => {
                let pin = GrantPin {
                    hv,
                    granter,
                    gref,
                    access,
                };
                self.hold(name, Page::whole(mfn), pin);
                Ok(())
            }
            None => self.take_split(hv, caller.id(), name, granter),
        }
    }

    /// The same where the granter's table was not of version 1.
    #[cold]
    #[inline(never)]
    fn take_split(
        &mut self,
        hv: &'a Hypervisor<H>,
        caller: DomId,
        name: (DomId, GrantRef),
        granter: DomainRef<H>,
    ) -> Result<(), GrantStatus> {
        let pinned = hv.pin_split(&granter, name.1, caller, self.access, Purpose::Copy)?;
        if pinned.passed_on.is_some() {
            return self.follow(hv, granter, name, pinned);
        }
        let (mfn, range) = (pinned.mfn, pinned.range);
        let pin = GrantPin {
            hv,
            granter,
            gref: name.1,
            access: self.access,
        };
        self.hold(name, Page { mfn, range }, pin);
        Ok(())
    }

    #[inline(always)]
    fn hold(&mut self, name: (DomId, GrantRef), page: Page, pin: GrantPin<'a, H>) {
        // There is none to be dropped here: not a look at it.
        core::mem::forget(self.held.replace(Held {
            _pin: pin,
            name,
            page,
        }));
    }

    #[cold]
    #[inline(never)]
    fn let_go(&mut self) {
        self.held = None;
        self.through = None;
    }

    /// Holds the grant that is passed on by a pinned one of `passer`. What is passed on is granted to whoever passes it on, and no further.
    #[cold]
    #[inline(never)]
    fn follow(
        &mut self,
        hv: &'a Hypervisor<H>,
        passer: DomainRef<H>,
        name: (DomId, GrantRef),
        pinned: Pinned,
    ) -> Result<(), GrantStatus> {
        let (access, own) = (self.access, passer.id());
        let pin = GrantPin {
            hv,
            granter: passer,
            gref: name.1,
            access,
        };
        let refused = GrantStatus::GeneralError;
        let (owner, gref) = pinned.passed_on.ok_or(refused)?;
        if owner == own {
            return Err(refused);
        }
        let granter = hv.domains.get(owner).ok_or(refused)?;
        let pinned = hv
            .pin_grant(&granter, gref, own, access, Purpose::Copy)
            .map_err(|_| refused)?;
        let inner = GrantPin {
            hv,
            granter,
            gref,
            access,
        };
        if pinned.passed_on.is_some() {
            return Err(refused);
        }
        self.through = Some(pin);
        let (mfn, range) = (pinned.mfn, pinned.range);
        self.hold(name, Page { mfn, range }, inner);
        Ok(())
    }
}
