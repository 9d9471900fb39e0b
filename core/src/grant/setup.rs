//! The size and the format of a table, and where its granter sees it.

use core::sync::atomic::Ordering::Relaxed;

use xenolith_abi::{
    DomId, Errno,
    grant_table::{
        EntryV1, GetStatusFrames, GrantStatus, MAPIDX_STATUS, QuerySize, SetupTable, SwapGrantRef,
    },
    narrow::Long,
};
use xenolith_hal::{AtomicOp::Swap, Gfn, GuestVirt, Hal, Mfn};

use super::{
    EntryPlace, FRAMES_PER_STATUS, Format, GrantTable, MAX_FRAMES, MAX_STATUS_FRAMES, StatusFrame,
    TableFrame,
};
use crate::{DomainRef, Hypervisor, guest::Caller};

impl<H: Hal> Hypervisor<H> {
    /// The table frame that a guest maps with `XENMAPSPACE_grant_table`, which lets the table grow; `gfn` is where it will
    /// stand. An index with [`MAPIDX_STATUS`] names a frame of status words. `EINVAL` beyond the largest table, `ENOMEM`.
    pub fn grant_frame_for_physmap(
        &self,
        domain: &DomainRef<H>,
        index: u64,
        gfn: Gfn,
    ) -> Result<Mfn, Errno> {
        if index & MAPIDX_STATUS != 0 {
            let frame = self.status_frame(domain, index & !MAPIDX_STATUS)?;
            frame.gfn.store(gfn.0, Relaxed);
            return Ok(frame.mfn);
        }
        let frame = self.table_frame(domain, index)?;
        frame.gfn.store(gfn.0, Relaxed);
        Ok(frame.mfn)
    }

    /// The frame of status words that a tool maps with `XENMEM_acquire_resource`.
    pub fn grant_status_frame(&self, domain: &DomainRef<H>, index: u64) -> Result<Mfn, Errno> {
        self.status_frame(domain, index).map(|frame| frame.mfn)
    }

    /// A frame of status words; the table grows to need it. `EINVAL` for a table of version 1.
    fn status_frame<'a>(
        &self,
        domain: &'a DomainRef<H>,
        index: u64,
    ) -> Result<&'a StatusFrame, Errno> {
        let grants = &domain.grants;
        let index = u32::try_from(index)
            .ok()
            .filter(|index| *index < MAX_STATUS_FRAMES)
            .ok_or(Errno::EINVAL)?;
        if grants.settled_format() != Format::V2 {
            return Err(Errno::EINVAL);
        }
        self.grow_grants(domain, index * FRAMES_PER_STATUS + 1)
            .map_err(|_| Errno::ENOMEM)?;
        let slot = grants.status.get(index as usize);
        slot.and_then(spin::Once::get).ok_or(Errno::EINVAL)
    }

    /// The table frame that a tool maps with `XENMEM_acquire_resource`.
    pub fn grant_frame(&self, domain: &DomainRef<H>, index: u64) -> Result<Mfn, Errno> {
        self.table_frame(domain, index).map(|frame| frame.mfn)
    }

    fn table_frame<'a>(
        &self,
        domain: &'a DomainRef<H>,
        index: u64,
    ) -> Result<&'a TableFrame<H>, Errno> {
        let index = u32::try_from(index)
            .ok()
            .filter(|index| *index < MAX_FRAMES)
            .ok_or(Errno::EINVAL)?;
        self.grow_grants(domain, index + 1)
            .map_err(|_| Errno::ENOMEM)?;
        domain.grants.frame(index).ok_or(Errno::EINVAL)
    }
}

/// The domain that a caller names, if it may manage its table: its own, or any when it is privileged.
pub(super) fn managed<H: Hal>(
    caller: Caller<'_, H>,
    id: DomId,
) -> Result<DomainRef<H>, GrantStatus> {
    let own = caller.domain();
    if id == DomId::SELF || id == own.id() {
        return Ok(own.clone());
    }
    let domain = caller.hv.domains.get(id).ok_or(GrantStatus::BadDomain)?;
    match own.config.privileged {
        true => Ok(domain),
        false => Err(GrantStatus::PermissionDenied),
    }
}

fn status_of(result: Result<(), GrantStatus>) -> i16 {
    result.err().unwrap_or(GrantStatus::Okay).number()
}

pub(super) fn setup_table<H: Hal>(caller: Caller<'_, H>, arg: GuestVirt) -> Result<(), Errno> {
    let mut op: SetupTable = caller.read(arg)?;
    op.status = status_of(set_up(caller, &op));
    caller.write(arg, &op)
}

fn set_up<H: Hal>(caller: Caller<'_, H>, op: &SetupTable) -> Result<(), GrantStatus> {
    let domain = managed(caller, op.dom)?;
    if op.nr_frames > MAX_FRAMES {
        return Err(GrantStatus::GeneralError);
    }
    caller
        .hv
        .grow_grants(&domain, op.nr_frames.max(1))
        .map_err(|_| GrantStatus::GeneralError)?;
    let list = GuestVirt(op.frame_list.address());
    for index in 0..op.nr_frames {
        let gfn = domain.grants.frame(index).map_or(u64::MAX, |frame| {
            // Who knows machine frames maps it by that.
            match domain.is_pv() {
                true => frame.mfn.0,
                false => frame.gfn.load(Relaxed),
            }
        });
        caller
            .write_at(list, index.into(), &Long(gfn))
            .map_err(|_| GrantStatus::BadVirtAddr)?;
    }
    Ok(())
}

pub(super) fn query_size<H: Hal>(caller: Caller<'_, H>, arg: GuestVirt) -> Result<(), Errno> {
    let mut op: QuerySize = caller.read(arg)?;
    let found = managed(caller, op.dom).map(|domain| {
        // The first frame is made when it is first asked for, but counts from the start.
        op.nr_frames = domain.grants.frame_count().max(1);
        op.max_nr_frames = MAX_FRAMES;
    });
    op.status = status_of(found);
    caller.write(arg, &op)
}

/// Tells where the caller sees the frames of status words; tables of version 1 have none.
pub(super) fn get_status_frames<H: Hal>(
    caller: Caller<'_, H>,
    arg: GuestVirt,
) -> Result<(), Errno> {
    let mut op: GetStatusFrames = caller.read(arg)?;
    op.status = status_of(status_frames(caller, &op));
    caller.write(arg, &op)
}

fn status_frames<H: Hal>(caller: Caller<'_, H>, op: &GetStatusFrames) -> Result<(), GrantStatus> {
    let domain = managed(caller, op.dom)?;
    let grants = &domain.grants;
    let known = match grants.settled_format() {
        Format::V2 => grants.frame_count().div_ceil(FRAMES_PER_STATUS),
        _ => 0,
    };
    if op.nr_frames > known || known == 0 {
        return Err(GrantStatus::GeneralError);
    }
    let list = GuestVirt(op.frame_list.address());
    let frames = grants.status.iter().map_while(spin::Once::get);
    for (index, frame) in (0..op.nr_frames).zip(frames) {
        let gfn = match domain.is_pv() {
            true => frame.mfn.0,
            false => frame.gfn.load(Relaxed),
        };
        caller
            .write_at(list, index.into(), &gfn)
            .map_err(|_| GrantStatus::BadVirtAddr)?;
    }
    Ok(())
}

/// Exchanges two entries of the caller that are not in use. The caller does not change them meanwhile, or loses the
/// change.
pub(super) fn swap_grant_ref<H: Hal>(
    caller: Caller<'_, H>,
    op: &SwapGrantRef,
) -> Result<(), GrantStatus> {
    let grants = &caller.domain().grants;
    let entry = |gref| grants.entry(gref).ok_or(GrantStatus::BadGntref);
    let (a, b) = (entry(op.ref_a)?, entry(op.ref_b)?);
    if op.ref_a == op.ref_b {
        return Ok(());
    }
    let (active_a, active_b) = a.active.lock_pair(b.active);
    if !active_a.pins.is_none() || !active_b.pins.is_none() {
        return Err(GrantStatus::Eagain);
    }
    let hal = &caller.hv.hal;
    let swapped = match grants.format() {
        Format::V1 => swap_words(hal, &a, &b),
        Format::V2 => {
            let entry = |gref| grants.split_entry(hal, gref).ok_or(GrantStatus::BadGntref);
            entry(op.ref_a)?.swap(&entry(op.ref_b)?)
        }
        Format::Changing | Format::Closed => return Err(GrantStatus::Eagain),
    };
    swapped.map_err(|_| GrantStatus::GeneralError)
}

fn swap_words<H: Hal>(
    hal: &H,
    a: &EntryPlace<'_, H>,
    b: &EntryPlace<'_, H>,
) -> Result<(), xenolith_hal::Fault> {
    // Nothing is granted through either while their frames change.
    let word_a = hal.atomic32(a.mfn, a.offset, Swap(0))?;
    let word_b = hal.atomic32(b.mfn, b.offset, Swap(0))?;
    let frame = core::mem::offset_of!(EntryV1, frame);
    let frame_a = hal.atomic32(a.mfn, a.offset + frame, Swap(0))?;
    let frame_b = hal.atomic32(b.mfn, b.offset + frame, Swap(frame_a))?;
    hal.atomic32(a.mfn, a.offset + frame, Swap(frame_b))?;
    hal.atomic32(a.mfn, a.offset, Swap(word_b))?;
    hal.atomic32(b.mfn, b.offset, Swap(word_a))?;
    Ok(())
}

impl<H: Hal> GrantTable<H> {
    /// Lets no new use of the table begin, and waits until the last change of its shared half is over.
    pub(super) fn close(&self) {
        self.version.close();
        for frame in self.frames.iter().map_while(spin::Once::get) {
            for entry in &frame.entries {
                drop(entry.lock());
            }
        }
    }
}
