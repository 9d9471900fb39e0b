//! Pinning a grant: the frame behind it stays, and its granter sees that it is used.

use xenolith_abi::{
    DomId, GrantRef,
    grant_table::{EntryFlags, GrantStatus},
};
use xenolith_hal::{
    AtomicOp::{And, Cas, Load},
    Hal, Mfn, P2mType,
};

use super::{
    EntryPlace,
    entry::{self, Access, Purpose, SharedWord},
};
use crate::{Domain, DomainRef, Hypervisor, memory::FrameRef};

/// Offset of the frame number in an entry.
const FRAME_FIELD: usize = core::mem::offset_of!(xenolith_abi::grant_table::EntryV1, frame);

/// An entry's word in the granter's memory. The frame is the hypervisor's own, so no access fails; a failed read would
/// say "not granted".
pub(super) struct GuestWord<'a, H: Hal> {
    hal: &'a H,
    mfn: Mfn,
    offset: usize,
}

impl<'a, H: Hal> GuestWord<'a, H> {
    pub(super) fn new(hal: &'a H, place: &EntryPlace<'_>) -> Self {
        Self {
            hal,
            mfn: place.mfn,
            offset: place.offset,
        }
    }

    pub(super) fn frame_number(&self) -> u32 {
        self.hal
            .atomic32(self.mfn, self.offset + FRAME_FIELD, Load)
            .unwrap_or(u32::MAX)
    }
}

impl<H: Hal> SharedWord for GuestWord<'_, H> {
    #[inline]
    fn load(&self) -> u32 {
        self.hal.atomic32(self.mfn, self.offset, Load).unwrap_or(0)
    }

    #[inline]
    fn replace(&self, old: u32, new: u32) -> u32 {
        self.hal
            .atomic32(self.mfn, self.offset, Cas { old, new })
            .unwrap_or(!old)
    }

    #[inline]
    fn clear(&self, flags: EntryFlags) {
        let _ = self.hal.atomic16(self.mfn, self.offset, And(!flags.0));
    }
}

/// A grant that was pinned: its frame, and the flags that its entry had.
pub(super) struct Pinned {
    pub(super) mfn: Mfn,
    pub(super) flags: EntryFlags,
}

impl<H: Hal> Hypervisor<H> {
    /// Pins a grant of `granter` for `grantee`. [`Hypervisor::unpin_grant`] undoes it.
    #[inline]
    pub(super) fn pin_grant(
        &self,
        granter: &DomainRef<H>,
        gref: GrantRef,
        grantee: DomId,
        access: Access,
        purpose: Purpose,
    ) -> Result<Pinned, GrantStatus> {
        let Some(place) = granter.grants.entry(gref) else {
            return Err(self.missing_entry(granter, gref));
        };
        let mut active = place.active.lock();
        if granter.grants.is_closed() {
            return Err(GrantStatus::BadGntref);
        }
        if !active.pins.is_none() && active.grantee != grantee {
            return Err(GrantStatus::GeneralError);
        }
        let word = GuestWord::new(&self.hal, &place);
        entry::claim(&word, active.pins, grantee, access, purpose)?;
        if active.pins.is_none() {
            let frame = self
                .grantable_frame(granter, word.frame_number().into(), access)
                .inspect_err(|_| entry::retract(&word, active.pins, access))?;
            active.mfn = frame.keep();
            active.grantee = grantee;
        }
        entry::add(&mut active.pins, access);
        Ok(Pinned {
            mfn: active.mfn,
            flags: EntryFlags(word.load() as u16),
        })
    }

    /// The table of a domain that never asked for one has one frame all the same, and all its entries grant nothing.
    #[cold]
    fn missing_entry(&self, granter: &Domain<H>, GrantRef(gref): GrantRef) -> GrantStatus {
        let first_frame = granter.grants.frame_count() == 0
            && gref < xenolith_abi::grant_table::EntryV1::PER_PAGE;
        match first_frame {
            true => GrantStatus::GeneralError,
            false => GrantStatus::BadGntref,
        }
    }

    /// Memory of the domain itself that it may grant; what it sees of others is not its own to give.
    pub(super) fn grantable_frame(
        &self,
        owner: &Domain<H>,
        gfn: u64,
        access: Access,
    ) -> Result<FrameRef<'_, H>, GrantStatus> {
        let pinned = self.pin(owner, xenolith_hal::Gfn(gfn));
        pinned
            .filter(|found| match found.entry.kind {
                P2mType::RamRw => true,
                P2mType::RamRo => access == Access::Read,
                _ => false,
            })
            .map(|found| found.frame)
            .ok_or(GrantStatus::BadPage)
    }

    /// Drops a pin. Nothing accesses the frame through it any more.
    #[inline]
    pub(super) fn unpin_grant(&self, granter: &DomainRef<H>, gref: GrantRef, access: Access) {
        let Some(place) = granter.grants.entry(gref) else {
            return;
        };
        let mut active = place.active.lock();
        if granter.grants.is_closed() {
            entry::drop_pin(&Gone, &mut active.pins, access);
        } else {
            let word = GuestWord::new(&self.hal, &place);
            entry::drop_pin(&word, &mut active.pins, access);
        }
        if active.pins.is_none() {
            let mfn = active.mfn;
            drop(active);
            self.put_frame(mfn);
        }
    }
}

/// The word of a granter whose table is no longer there.
struct Gone;

impl SharedWord for Gone {
    fn load(&self) -> u32 {
        0
    }
    fn replace(&self, old: u32, _: u32) -> u32 {
        !old
    }
    fn clear(&self, _: EntryFlags) {}
}
