//! Granted frames in the page tables of a paravirtual guest.
//!
//! The core pins the grant, and so the frame, before the architecture makes the page-table entry ([`Rows`]), and lets go
//! after the entry is gone and no TLB holds it. A pin for writing holds the frame as writable memory too, where its owner is
//! paravirtual. A call that undoes many mappings flushes TLBs once for some of them, and lets go of those then.

use core::marker::PhantomData;

use arrayvec::ArrayVec;
use xenolith_abi::{
    GrantHandle,
    grant_table::{GrantStatus, MapFlags, MapGrantRef, UnmapAndReplace, UnmapGrantRef},
};
use xenolith_hal::{GuestVirt, Hal, HostPhys, Mfn};

use super::{
    maptrack::Mapping,
    op::{status_of, tell_mapped},
};
use crate::{guest::Caller, hypercall::Rows};

/// Where the page-table entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PvPlace {
    /// It is the one that maps this address of the caller's current address space.
    Address(GuestVirt),
    /// It is the eight bytes at this machine address, in a table of the caller's.
    Entry(HostPhys),
}

/// An entry that leads to a granted frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PvMapping {
    /// Where the entry is.
    pub place: PvPlace,
    /// The granted frame, which the core holds for as long as the mapping stands.
    pub mfn: Mfn,
    /// What the caller asked for: whether it may only read, whether its applications may access, bits for itself.
    pub flags: MapFlags,
}

impl PvMapping {
    fn new(mfn: Mfn, flags: MapFlags, host_addr: u64) -> Self {
        let place = match flags.contains(MapFlags::CONTAINS_PTE) {
            true => PvPlace::Entry(HostPhys(host_addr)),
            false => PvPlace::Address(GuestVirt(host_addr)),
        };
        Self { place, mfn, flags }
    }

    /// Whether the entry allows writing.
    pub fn is_writable(&self) -> bool {
        !self.flags.contains(MapFlags::READONLY)
    }
}

/// Maps a grant for a paravirtual caller, or pins it for its devices alone.
#[inline(always)]
fn map<H: Hal, A: Rows<H>>(
    caller: Caller<'_, H>,
    op: &MapGrantRef,
) -> Result<(GrantHandle, Mfn), GrantStatus> {
    caller.hv.map_grant_by(caller.domain(), op, |pinned| {
        if !op.flags.contains(MapFlags::HOST_MAP) {
            return Ok(());
        }
        A::map_granted(caller, &PvMapping::new(pinned.mfn, op.flags, op.host_addr))
    })
}

/// Serves one element of `GNTTABOP_map_grant_ref` of a paravirtual guest.
#[inline(never)]
pub fn map_one<H: Hal, A: Rows<H>>(caller: Caller<'_, H>, op: &mut MapGrantRef) {
    let mapped = map::<H, A>(caller, op);
    tell_mapped(op, mapped);
}

/// Serves the only element of a `GNTTABOP_unmap_grant_ref` of a paravirtual guest: nothing is gained by waiting with it. Gives the
/// element's status.
#[inline(never)]
pub fn unmap_one<H: Hal, A: Rows<H>>(caller: Caller<'_, H>, op: &UnmapGrantRef) -> u16 {
    let undone = undo::<H, A>(caller, &Named::from(op), |mapping| {
        A::flush_granted(caller);
        caller.hv.end_mapping(caller.domain(), op.handle, mapping);
    });
    status_of(undone)
}

/// What an element of a call names.
struct Named {
    handle: GrantHandle,
    host_addr: u64,
    dev_bus_addr: u64,
    new_addr: u64,
}

impl From<&UnmapGrantRef> for Named {
    #[inline(always)]
    fn from(op: &UnmapGrantRef) -> Self {
        Self {
            handle: op.handle,
            host_addr: op.host_addr,
            dev_bus_addr: op.dev_bus_addr,
            new_addr: 0,
        }
    }
}

/// Undoes a mapping; `end` is given it when nothing of it is left but what TLBs hold.
#[inline(always)]
fn undo<H: Hal, A: Rows<H>>(
    caller: Caller<'_, H>,
    op: &Named,
    end: impl FnOnce(Mapping<H>),
) -> Result<(), GrantStatus> {
    let track = &caller.domain().grants.maptrack;
    let mut mapping = track.take(op.handle).ok_or(GrantStatus::BadHandle)?;
    let undone = undo_parts::<H, A>(caller, &mut mapping, op);
    let parts = MapFlags::HOST_MAP | MapFlags::DEVICE_MAP;
    match mapping.flags.intersects(parts) {
        true => track.put_back(op.handle, mapping),
        false => end(mapping),
    }
    undone
}

/// Takes the parts away that are named; the flags tell what is left.
#[inline(always)]
fn undo_parts<H: Hal, A: Rows<H>>(
    caller: Caller<'_, H>,
    mapping: &mut Mapping<H>,
    op: &Named,
) -> Result<(), GrantStatus> {
    let for_devices = mapping.flags.contains(MapFlags::DEVICE_MAP) && op.dev_bus_addr != 0;
    if for_devices && op.dev_bus_addr != mapping.mfn.base().0 {
        return Err(GrantStatus::BadDevAddr);
    }
    if mapping.flags.contains(MapFlags::HOST_MAP) && op.host_addr != 0 {
        let new = (op.new_addr != 0).then_some(GuestVirt(op.new_addr));
        if new.is_some() && mapping.flags.contains(MapFlags::CONTAINS_PTE) {
            return Err(GrantStatus::GeneralError);
        }
        let entry = PvMapping::new(mapping.mfn, mapping.flags, op.host_addr);
        A::unmap_granted(caller, &entry, new)?;
        mapping.flags.remove(MapFlags::HOST_MAP);
    }
    if for_devices {
        mapping.flags.remove(MapFlags::DEVICE_MAP);
    }
    Ok(())
}

/// Undoes the mappings of one call, one after the other.
pub(super) struct Unmapper<'a, H: Hal, A: Rows<H>> {
    caller: Caller<'a, H>,
    /// Those that are undone but for TLBs.
    ended: ArrayVec<(GrantHandle, Mapping<H>), 32>,
    arch: PhantomData<A>,
}

impl<'a, H: Hal, A: Rows<H>> Unmapper<'a, H, A> {
    /// For a call.
    pub(super) fn new(caller: Caller<'a, H>) -> Self {
        Self {
            caller,
            ended: ArrayVec::new(),
            arch: PhantomData,
        }
    }

    /// Undoes one.
    pub(super) fn unmap(&mut self, op: &UnmapGrantRef) -> Result<(), GrantStatus> {
        self.undo(&Named::from(op))
    }

    /// Undoes one, and another page takes its place.
    pub(super) fn replace(&mut self, op: &UnmapAndReplace) -> Result<(), GrantStatus> {
        self.undo(&Named {
            handle: op.handle,
            host_addr: op.host_addr,
            dev_bus_addr: 0,
            new_addr: op.new_addr,
        })
    }

    #[inline(never)]
    fn undo(&mut self, op: &Named) -> Result<(), GrantStatus> {
        if self.ended.is_full() {
            self.finish();
        }
        let kept = &mut self.ended;
        undo::<H, A>(self.caller, op, |mapping| kept.push((op.handle, mapping)))
    }

    #[inline(never)]
    fn finish(&mut self) {
        if self.ended.is_empty() {
            return;
        }
        A::flush_granted(self.caller);
        let (hv, own) = (self.caller.hv, self.caller.domain());
        while let Some((handle, mapping)) = self.ended.pop() {
            hv.end_mapping(own, handle, mapping);
        }
    }
}

impl<H: Hal, A: Rows<H>> Drop for Unmapper<'_, H, A> {
    fn drop(&mut self) {
        if !self.ended.is_empty() {
            self.finish();
        }
    }
}
