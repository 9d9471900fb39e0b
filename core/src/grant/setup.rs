//! The size and the format of a table, and where its granter sees it.

use core::sync::atomic::Ordering::{Relaxed, SeqCst};

use xenolith_abi::{
    DomId, Errno,
    grant_table::{
        EntryV1, GetStatusFrames, GetVersion, GrantStatus, QuerySize, SetVersion, SetupTable,
        SwapGrantRef,
    },
};
use xenolith_hal::{AtomicOp::Swap, Gfn, GuestVirt, Hal, Mfn};

use super::{EntryPlace, GrantTable, MAX_FRAMES, TableFrame};
use crate::{DomainRef, Hypervisor, guest::Caller};

/// The only format of entries that is offered.
const VERSION: u32 = 1;

impl<H: Hal> Hypervisor<H> {
    /// The table frame that a guest maps with `XENMAPSPACE_grant_table`, which lets the table grow; `gfn` is where it will
    /// stand. `EINVAL` beyond the largest table, `ENOMEM`.
    pub fn grant_frame_for_physmap(
        &self,
        domain: &DomainRef<H>,
        index: u64,
        gfn: Gfn,
    ) -> Result<Mfn, Errno> {
        let frame = self.table_frame(domain, index)?;
        frame.gfn.store(gfn.0, Relaxed);
        Ok(frame.mfn)
    }

    /// The table frame that a tool maps with `XENMEM_acquire_resource`.
    pub fn grant_frame(&self, domain: &DomainRef<H>, index: u64) -> Result<Mfn, Errno> {
        self.table_frame(domain, index).map(|frame| frame.mfn)
    }

    fn table_frame<'a>(
        &self,
        domain: &'a DomainRef<H>,
        index: u64,
    ) -> Result<&'a TableFrame, Errno> {
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
fn managed<H: Hal>(caller: Caller<'_, H>, id: DomId) -> Result<DomainRef<H>, GrantStatus> {
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
        let gfn = domain
            .grants
            .frame(index)
            .map_or(u64::MAX, |frame| frame.gfn.load(Relaxed));
        caller
            .write_at(list, index.into(), &gfn)
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

pub(super) fn set_version<H: Hal>(caller: Caller<'_, H>, arg: GuestVirt) -> Result<(), Errno> {
    let wanted: SetVersion = caller.read(arg)?;
    let result = match wanted.version {
        VERSION => Ok(()),
        2 => Err(Errno::ENOSYS),
        _ => Err(Errno::EINVAL),
    };
    caller.write(arg, &SetVersion { version: VERSION })?;
    result
}

pub(super) fn get_version<H: Hal>(caller: Caller<'_, H>, arg: GuestVirt) -> Result<(), Errno> {
    let mut op: GetVersion = caller.read(arg)?;
    managed(caller, op.dom).map_err(|status| match status {
        GrantStatus::PermissionDenied => Errno::EPERM,
        _ => Errno::ESRCH,
    })?;
    op.version = VERSION;
    caller.write(arg, &op)
}

/// Tables of version 1 have no status frames.
pub(super) fn get_status_frames<H: Hal>(
    caller: Caller<'_, H>,
    arg: GuestVirt,
) -> Result<(), Errno> {
    let mut op: GetStatusFrames = caller.read(arg)?;
    let found = managed(caller, op.dom).and(Err(GrantStatus::GeneralError));
    op.status = status_of(found);
    caller.write(arg, &op)
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
    swap_words(&caller.hv.hal, &a, &b).map_err(|_| GrantStatus::GeneralError)
}

fn swap_words<H: Hal>(
    hal: &H,
    a: &EntryPlace<'_>,
    b: &EntryPlace<'_>,
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
        self.closed.store(true, SeqCst);
        for frame in self.frames.iter().map_while(spin::Once::get) {
            for entry in &frame.entries {
                drop(entry.lock());
            }
        }
    }
}
