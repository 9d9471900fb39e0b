//! Pinning a grant: the frame behind it stays, and its granter sees that it is used.

use xenolith_abi::{
    DomId, GrantRef,
    grant_table::{EntryFlags, GrantStatus, entry_type},
};
use xenolith_hal::{
    AtomicOp::{And, Cas, Load},
    Gfn, Hal, Mfn, P2m, P2mEntry, P2mType,
};

use super::{
    EntryPlace, Format, GrantTable,
    entry::{self, Access, Purpose, SharedWord},
    split::Range,
};
use crate::{
    Domain, DomainRef, Hypervisor,
    memory::{FrameRef, Refused},
};

/// In place of the frame of a grant that passes on another one.
const NO_FRAME: Mfn = Mfn(u64::MAX);

/// Offset of the frame number in an entry.
const FRAME_FIELD: usize = core::mem::offset_of!(xenolith_abi::grant_table::EntryV1, frame);

/// An entry's word in the granter's memory.
pub(super) struct GuestWord<'a, H: Hal> {
    hal: &'a H,
    frame: H::Frame,
    offset: usize,
}

impl<'a, H: Hal> GuestWord<'a, H> {
    pub(super) fn new(hal: &'a H, place: &EntryPlace<'_, H>) -> Self {
        Self {
            hal,
            frame: place.frame,
            offset: place.offset,
        }
    }

    pub(super) fn frame_number(&self) -> u32 {
        self.hal.word32(self.frame, self.offset + FRAME_FIELD, Load)
    }
}

impl<H: Hal> SharedWord for GuestWord<'_, H> {
    #[inline]
    fn load(&self) -> u32 {
        self.hal.word32(self.frame, self.offset, Load)
    }

    #[inline]
    fn replace(&self, old: u32, new: u32) -> u32 {
        self.hal.word32(self.frame, self.offset, Cas { old, new })
    }

    #[inline]
    fn clear(&self, flags: EntryFlags) {
        self.hal.word16(self.frame, self.offset, And(!flags.0));
    }
}

/// A grant that was pinned: its frame, and what its entry said.
pub(super) struct Pinned {
    pub(super) mfn: Mfn,
    /// What the entry asks of mappings; of no meaning to copies.
    pub(super) flags: EntryFlags,
    /// What of the page is granted.
    pub(super) range: Range,
    /// The grant of another domain that this one passes on, in place of a frame.
    pub(super) passed_on: Option<(DomId, GrantRef)>,
}

impl Access {
    /// Whether memory of this kind may be granted so, or used in place of a grant.
    #[inline(always)]
    pub(super) fn suits(self, kind: P2mType) -> bool {
        match kind {
            P2mType::RamRw => true,
            P2mType::RamRo => self == Self::Read,
            _ => false,
        }
    }
}

impl Pinned {
    /// What an entry of version 1 grants.
    #[inline(always)]
    const fn whole(mfn: Mfn, flags: EntryFlags) -> Self {
        Self {
            mfn,
            flags,
            range: Range::PAGE,
            passed_on: None,
        }
    }
}

/// What a domain is told of a frame that it cannot use.
fn told(refused: Refused) -> GrantStatus {
    match refused {
        Refused::NotOwned => GrantStatus::BadPage,
        _ => GrantStatus::GeneralError,
    }
}

impl<H: Hal> Hypervisor<H> {
    /// Pins a grant of `granter` for `grantee`. [`Hypervisor::unpin_grant`] undoes it.
    #[inline(always)]
    pub(super) fn pin_grant(
        &self,
        granter: &DomainRef<H>,
        gref: GrantRef,
        grantee: DomId,
        access: Access,
        purpose: Purpose,
    ) -> Result<Pinned, GrantStatus> {
        match self.pin_whole(granter, gref, grantee, access, purpose)? {
            Some((mfn, flags)) => Ok(Pinned::whole(mfn, flags)),
            None => self.pin_split(granter, gref, grantee, access, purpose),
        }
    }

    /// Pins a grant of a table of version 1, which is of a whole page: its frame, and its flags as far as mappings are
    /// concerned. `None` where the table is of another version, for [`Hypervisor::pin_split`].
    #[inline(always)]
    pub(super) fn pin_whole(
        &self,
        granter: &DomainRef<H>,
        gref: GrantRef,
        grantee: DomId,
        access: Access,
        purpose: Purpose,
    ) -> Result<Option<(Mfn, EntryFlags)>, GrantStatus> {
        match granter.grants.entry(gref) {
            Some(place) => self.pin_whole_at(granter, &place, grantee, access, purpose),
            None => Err(self.missing_entry(granter, gref)),
        }
    }

    /// The same of an entry that was found.
    #[inline(always)]
    pub(super) fn pin_whole_at(
        &self,
        granter: &DomainRef<H>,
        place: &EntryPlace<'_, H>,
        grantee: DomId,
        access: Access,
        purpose: Purpose,
    ) -> Result<Option<(Mfn, EntryFlags)>, GrantStatus> {
        let mut active = place.active.lock();
        if granter.grants.format() != Format::V1 {
            return match GrantTable::<H>::HAS_SPLIT {
                true => Ok(None),
                false => Err(GrantStatus::BadGntref),
            };
        }
        if !active.pins.is_none() && active.grantee != grantee {
            return Err(GrantStatus::GeneralError);
        }
        let word = GuestWord::new(&self.hal, place);
        entry::claim(&word, active.pins, grantee, access, purpose)?;
        if active.pins.is_none() {
            let frame = self
                .grantable_frame(granter, word.frame_number().into(), access)
                .inspect_err(|_| entry::retract(&word, active.pins, access))?;
            active.mfn = frame.keep();
            active.grantee = grantee;
        } else {
            self.begin_granted_writing(granter, &active, access)
                .inspect_err(|_| entry::retract(&word, active.pins, access))?;
        }
        entry::add(&mut active.pins, access);
        let flags = match purpose {
            Purpose::Map => EntryFlags(word.load() as u16),
            _ => EntryFlags::empty(),
        };
        Ok(Some((active.mfn, flags)))
    }

    /// As [`Hypervisor::pin_grant`], for a table that was not of version 1 when its entry was locked.
    #[cold]
    #[inline(never)]
    pub(super) fn pin_split(
        &self,
        granter: &DomainRef<H>,
        gref: GrantRef,
        grantee: DomId,
        access: Access,
        purpose: Purpose,
    ) -> Result<Pinned, GrantStatus> {
        let place = granter.grants.entry(gref).ok_or(GrantStatus::BadGntref)?;
        let mut active = loop {
            granter.grants.settled_format();
            let active = place.active.lock();
            match granter.grants.format() {
                Format::V2 => break active,
                Format::Changing => {}
                Format::Closed => return Err(GrantStatus::BadGntref),
                // Its granter changes the format all the time.
                Format::V1 => return Err(GrantStatus::GeneralError),
            }
        };
        let word = granter
            .grants
            .split_entry(&self.hal, gref)
            .ok_or(GrantStatus::BadGntref)?;
        let passes_on = purpose == Purpose::Copy
            && EntryFlags(word.load() as u16).entry_type() == entry_type::TRANSITIVE;
        let first = active.pins.is_none();
        if !first && (active.grantee != grantee || (active.mfn == NO_FRAME) != passes_on) {
            return Err(GrantStatus::GeneralError);
        }
        let purpose = if passes_on { Purpose::Through } else { purpose };
        entry::claim_split(&word, active.pins, grantee, access, purpose)?;
        if first {
            active.mfn = if passes_on {
                NO_FRAME
            } else {
                self.grantable_frame(granter, word.frame_number(), access)
                    .inspect_err(|_| entry::retract(&word, active.pins, access))?
                    .keep()
            };
            active.grantee = grantee;
        } else if !passes_on {
            self.begin_granted_writing(granter, &active, access)
                .inspect_err(|_| entry::retract(&word, active.pins, access))?;
        }
        entry::add(&mut active.pins, access);
        Ok(Pinned {
            mfn: active.mfn,
            flags: word.flags(),
            range: if passes_on { Range::PAGE } else { word.range() },
            passed_on: passes_on.then(|| word.passed_on()),
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
    #[inline(always)]
    pub(super) fn grantable_frame(
        &self,
        owner: &Domain<H>,
        gfn: u64,
        access: Access,
    ) -> Result<FrameRef<'_, H>, GrantStatus> {
        if owner.is_pv() {
            let write = access == Access::Write;
            return match self.get_granted_quickly(Mfn(gfn), owner, write) {
                Some(frame) => Ok(frame),
                None => self.grantable_machine_frame(owner, Mfn(gfn), access),
            };
        }
        let take = |entry: P2mEntry| self.get_frame(entry.mfn, owner.id());
        owner
            .p2m
            .with_entry(Gfn(gfn), |entry| {
                entry
                    .filter(|entry| access.suits(entry.kind))
                    .and_then(take)
            })
            .ok_or(GrantStatus::BadPage)
    }

    /// The same of a paravirtual domain. For writing, the frame is in use as writable memory, until
    /// [`Hypervisor::end_writing`].
    #[inline(never)]
    fn grantable_machine_frame(
        &self,
        owner: &Domain<H>,
        mfn: Mfn,
        access: Access,
    ) -> Result<FrameRef<'_, H>, GrantStatus> {
        self.get_granted(mfn, owner, access == Access::Write)
            .map_err(told)
    }

    #[inline(never)]
    fn copyable_machine_frame(
        &self,
        owner: &Domain<H>,
        mfn: Mfn,
        write: bool,
    ) -> Result<FrameRef<'_, H>, GrantStatus> {
        self.get_mappable(mfn, owner, write).map_err(told)
    }

    /// A page that the domain may copy from or to as its own: memory, and for a paravirtual one what the hypervisor shows
    /// to it. The latter is written as [`Hypervisor::grantable_frame`] says.
    #[inline(always)]
    pub(super) fn copyable_frame(
        &self,
        owner: &Domain<H>,
        gfn: u64,
        access: Access,
    ) -> Result<FrameRef<'_, H>, GrantStatus> {
        if owner.is_pv() {
            let (mfn, write) = (Mfn(gfn), access == Access::Write);
            return match self.get_mappable_quickly(mfn, owner, write) {
                Some(frame) => Ok(frame),
                None => self.copyable_machine_frame(owner, mfn, write),
            };
        }
        self.grantable_frame(owner, gfn, access)
    }

    /// A grant that is pinned already is about to be pinned again: the first time for writing, its frame becomes writable
    /// memory, where that means something.
    #[inline(always)]
    fn begin_granted_writing(
        &self,
        granter: &Domain<H>,
        active: &super::Active,
        access: Access,
    ) -> Result<(), GrantStatus> {
        let first = granter.is_pv() && access == Access::Write && active.pins.writers() == 0;
        match first && !self.begin_writing(active.mfn) {
            true => Err(GrantStatus::GeneralError),
            false => Ok(()),
        }
    }

    /// Drops a pin. Nothing accesses the frame through it any more.
    #[inline]
    pub(super) fn unpin_grant(&self, granter: &DomainRef<H>, gref: GrantRef, access: Access) {
        if let Some(place) = granter.grants.entry(gref) {
            self.unpin_grant_at(granter, &place, gref, access);
        }
    }

    /// The same of the entry where it was found.
    #[inline(always)]
    pub(super) fn unpin_grant_at(
        &self,
        granter: &DomainRef<H>,
        place: &EntryPlace<'_, H>,
        gref: GrantRef,
        access: Access,
    ) {
        let mut active = place.active.lock();
        let wrote = granter.is_pv() && active.pins.writers() != 0;
        if granter.grants.format() == Format::V1 {
            entry::drop_pin(&GuestWord::new(&self.hal, place), &mut active.pins, access);
        } else if GrantTable::<H>::HAS_SPLIT {
            while granter.grants.format() == Format::Changing {
                drop(active);
                granter.grants.settled_format();
                active = place.active.lock();
            }
            match granter.grants.format() {
                Format::V1 => {
                    entry::drop_pin(&GuestWord::new(&self.hal, place), &mut active.pins, access);
                }
                _ => self.drop_split_pin(granter, gref, &mut active.pins, access),
            }
        } else {
            entry::drop_pin(&Gone, &mut active.pins, access);
        }
        let written = wrote && active.pins.writers() == 0;
        if active.pins.is_none() {
            let mfn = active.mfn;
            drop(active);
            if written {
                self.put_writable(mfn);
            } else if mfn != NO_FRAME {
                self.put_frame(mfn);
            }
        } else if written {
            self.end_writing(active.mfn);
        }
    }

    #[cold]
    #[inline(never)]
    fn drop_split_pin(
        &self,
        granter: &DomainRef<H>,
        gref: GrantRef,
        pins: &mut entry::Pins,
        access: Access,
    ) {
        match granter.grants.split_entry(&self.hal, gref) {
            Some(word) if granter.grants.format() == Format::V2 => {
                entry::drop_pin(&word, pins, access);
            }
            _ => entry::drop_pin(&Gone, pins, access),
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
