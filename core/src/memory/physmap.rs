//! Changing a domain's physical map so that what stood there before is let go.
//!
//! A foreign frame in the map carries a reference; all places that put one in or take one out hold the domain's
//! physmap lock. The reference is dropped after that lock is open again: it may be the last that kept a domain in the
//! table, whose end is an event for the control domain. Hypervisor memory (shared info, grant frames) is shown at one guest frame at most, noted in its
//! record. A frame of the domain's own that is replaced stays the domain's, unmapped, as on Xen.

use arrayvec::ArrayVec;
use xenolith_hal::{Gfn, Hal, Mfn, Order, P2m, P2mEntry, P2mError, P2mType, sync::MutexGuard};

use super::{Charge, FrameRecord, FrameRef, Place, WritableRef};
use crate::{Domain, DomainRef, Errno, Hypervisor};

fn errno(error: P2mError) -> Errno {
    match error {
        P2mError::OutOfRange => Errno::EINVAL,
        P2mError::NoMemory => Errno::ENOMEM,
    }
}

/// A frame to be put into a physical map.
#[derive(Clone, Copy, Debug)]
pub(super) enum Shown {
    /// The shared-info frame, which must not be shown elsewhere already.
    SharedInfo,
    /// A frame of the grant table, which moves if it is shown elsewhere.
    Grant(Mfn),
}

impl<H: Hal> Hypervisor<H> {
    /// Gives a domain one new extent of memory at `gfn`. For a direct-mapped domain the machine frames are those of the
    /// same numbers, which must be the domain's already.
    pub(super) fn populate(
        &self,
        domain: &DomainRef<H>,
        gfn: Gfn,
        order: Order,
        place: Place,
    ) -> Result<(), Errno> {
        let frames = 1 << order;
        let first = if domain.config.direct_map {
            // Shared info and grant frames are the domain's by name, but not its memory.
            let owned = |mfn| {
                self.owned_record(mfn, domain.id()).is_some_and(|record| {
                    record.state().charge() == Charge::Memory && record.state().allocated()
                })
            };
            let first = Mfn(gfn.0);
            let all = (0..frames).all(|n| owned(first.plus(n)));
            all.then_some(first).ok_or(Errno::EINVAL)?
        } else {
            self.allocate_for(domain, order, place)
                .map_err(|_| Errno::ENOMEM)?
        };
        let _one_at_a_time = self.lock_cleared(domain, gfn, frames);
        let tables = self.tables(domain);
        let mapped = domain.p2m.map(gfn, first, frames, P2mType::RamRw, &tables);
        mapped.map_err(|error| {
            // The range may be partly mapped. Should some of it stay so, its frames stay the domain's.
            let unmapped = domain.p2m.unmap(gfn, frames, &tables);
            if !domain.config.direct_map && unmapped.is_ok() | (error == P2mError::OutOfRange) {
                for n in 0..frames {
                    self.drop_allocation(domain, first.plus(n));
                }
            }
            errno(error)
        })
    }

    /// Takes `frames` frames of a domain's memory at `gfn` away. A direct-mapped domain keeps owning them, so that it
    /// gets the same ones back. Stops with an error at a frame that is not the domain's memory.
    pub(super) fn depopulate(
        &self,
        domain: &DomainRef<H>,
        gfn: Gfn,
        frames: u64,
    ) -> Result<(), Errno> {
        let _one_at_a_time = domain.memory.physmap.lock();
        let tables = self.tables(domain);
        let mut done = 0;
        while done < frames {
            let at = gfn.plus(done);
            let (start, entry, left) = domain.p2m.next_mapped(at).ok_or(Errno::EINVAL)?;
            if start != at {
                return Err(Errno::EINVAL);
            }
            let run = left.min(frames - done);
            match entry.kind {
                P2mType::RamRw | P2mType::RamRo => {
                    domain.p2m.unmap(at, run, &tables).map_err(errno)?;
                    if !domain.config.direct_map {
                        for n in 0..run {
                            self.drop_allocation(domain, entry.mfn.plus(n));
                        }
                    }
                    done += run;
                }
                P2mType::XenShared => {
                    self.hide(domain, at, entry.mfn)?;
                    done += 1;
                }
                _ => return Err(Errno::ENXIO),
            }
        }
        Ok(())
    }

    /// Takes the physmap lock of a domain when no foreign and hypervisor frames are left in a range that is about to be
    /// mapped anew.
    fn lock_cleared<'a>(
        &self,
        domain: &'a DomainRef<H>,
        gfn: Gfn,
        frames: u64,
    ) -> MutexGuard<'a, ()> {
        loop {
            let lock = domain.memory.physmap.lock();
            let foreign = self.clear(domain, gfn, frames);
            if foreign.is_empty() {
                return lock;
            }
            drop(lock);
            for (mfn, kind) in foreign {
                self.put_foreign(mfn, kind);
            }
        }
    }

    /// Takes hypervisor frames and some foreign frames out of a range. The caller lets go of the foreign ones.
    fn clear(&self, domain: &DomainRef<H>, gfn: Gfn, frames: u64) -> ArrayVec<(Mfn, P2mType), 32> {
        let end = gfn.plus(frames);
        let mut foreign = ArrayVec::new();
        let mut at = gfn;
        // All of these are mapped one by one: no block is split and no table needed.
        while let Some((start, entry, left)) = domain.p2m.next_mapped(at)
            && start < end
            && !foreign.is_full()
        {
            match entry.kind {
                P2mType::ForeignRw | P2mType::ForeignRo => {
                    let expected = (entry.mfn, entry.kind);
                    let tables = self.tables(domain);
                    if domain.p2m.remove_if(start, expected, &tables) == Ok(true) {
                        foreign.push(expected);
                    }
                }
                // It goes at once, for mapping the range anew may fail.
                P2mType::XenShared => drop(self.hide(domain, start, entry.mfn)),
                _ => {}
            }
            at = start.plus(left);
        }
        foreign
    }

    fn note_shown(&self, mfn: Mfn, gfn: Option<Gfn>) {
        if let Some(record) = self.memory.record(mfn)
            && record.state().charge() == Charge::Hypervisor
        {
            record.set_shown_at(gfn);
        }
    }

    /// Puts one frame at `gfn`. Under the physmap lock; afterwards the caller lets go of the foreign frame that was there.
    fn replace(
        &self,
        domain: &Domain<H>,
        gfn: Gfn,
        new: (Mfn, P2mType),
    ) -> Result<Option<(Mfn, P2mType)>, Errno> {
        let old = domain
            .p2m
            .exchange(gfn, Some(new), &self.tables(domain))
            .map_err(errno)?;
        let Some(P2mEntry { mfn, kind, .. }) = old else {
            return Ok(None);
        };
        match kind {
            P2mType::ForeignRw | P2mType::ForeignRo => return Ok(Some((mfn, kind))),
            P2mType::XenShared => self.note_shown(mfn, None),
            _ => {}
        }
        Ok(None)
    }

    /// Lets go of what a grant took the place of: `old` was at `gfn`, and was replaced without the physmap lock. Memory of
    /// the domain's own stays the domain's, unmapped.
    pub(crate) fn let_go_replaced(&self, domain: &Domain<H>, gfn: Gfn, old: &P2mEntry) {
        match old.kind {
            P2mType::ForeignRw | P2mType::ForeignRo => self.put_foreign(old.mfn, old.kind),
            P2mType::XenShared => {
                let _one_at_a_time = domain.memory.physmap.lock();
                // Since then it may have been shown again, there or elsewhere.
                let shown = domain.p2m.lookup(gfn).map(|entry| (entry.mfn, entry.kind));
                let record = self.memory.record(old.mfn);
                if record.and_then(FrameRecord::shown_at) == Some(gfn)
                    && shown != Some((old.mfn, P2mType::XenShared))
                {
                    self.note_shown(old.mfn, None);
                }
            }
            _ => {}
        }
    }

    /// Takes hypervisor memory out of the map again. Under the physmap lock.
    fn hide(&self, domain: &Domain<H>, gfn: Gfn, mfn: Mfn) -> Result<(), Errno> {
        domain
            .p2m
            .remove_if(gfn, (mfn, P2mType::XenShared), &self.tables(domain))
            .map_err(errno)?;
        self.note_shown(mfn, None);
        Ok(())
    }

    /// Shows hypervisor memory to a domain at `gfn`.
    pub(super) fn show(&self, domain: &DomainRef<H>, gfn: Gfn, what: Shown) -> Result<(), Errno> {
        let mfn = match what {
            Shown::SharedInfo => domain.shared_info,
            Shown::Grant(mfn) => mfn,
        };
        let record = self.owned_record(mfn, domain.id()).ok_or(Errno::EINVAL)?;
        let one_at_a_time = domain.memory.physmap.lock();
        match (what, record.shown_at()) {
            (Shown::SharedInfo, Some(_)) => return Err(Errno::EBUSY),
            (Shown::Grant(_), Some(old)) if old != gfn => self.hide(domain, old, mfn)?,
            _ => {}
        }
        let foreign = self.replace(domain, gfn, (mfn, P2mType::XenShared))?;
        record.set_shown_at(Some(gfn));
        drop(one_at_a_time);
        if let Some((mfn, kind)) = foreign {
            self.put_foreign(mfn, kind);
        }
        Ok(())
    }

    /// Lets go of a foreign frame that was in a map.
    pub(super) fn put_foreign(&self, mfn: Mfn, kind: P2mType) {
        match kind {
            P2mType::ForeignRw => self.put_writable(mfn),
            _ => self.put_frame(mfn),
        }
    }

    /// Maps a frame of `owner` at `gfn` of a privileged domain's map: `source` is its place in the owner's map.
    pub(super) fn map_foreign(
        &self,
        domain: &DomainRef<H>,
        gfn: Gfn,
        owner: &DomainRef<H>,
        source: Gfn,
    ) -> Result<(), Errno> {
        let pinned = self.pin(owner, source).ok_or(Errno::EINVAL)?;
        let kind = match pinned.entry.kind {
            P2mType::RamRw | P2mType::XenShared => P2mType::ForeignRw,
            P2mType::RamRo => P2mType::ForeignRo,
            _ => return Err(Errno::EINVAL),
        };
        let mfn = pinned.frame.mfn();
        match self.map_held(domain, gfn, mfn, kind, owner) {
            // A page table of a paravirtual domain may be looked at.
            Err(Errno::EINVAL) if owner.is_pv() && kind == P2mType::ForeignRw => {
                self.map_held(domain, gfn, mfn, P2mType::ForeignRo, owner)
            }
            result => result,
        }
    }

    /// Maps a frame that belongs to `owner` at `gfn`; the map takes a reference of its own.
    pub(super) fn map_held(
        &self,
        domain: &DomainRef<H>,
        gfn: Gfn,
        mfn: Mfn,
        kind: P2mType,
        owner: &Domain<H>,
    ) -> Result<(), Errno> {
        let held = match kind {
            P2mType::ForeignRw => self.get_writable(mfn, owner).map(WritableRef::keep),
            _ => self.get_frame(mfn, owner.id()).map(FrameRef::keep),
        };
        held.ok_or(Errno::EINVAL)?;
        let one_at_a_time = domain.memory.physmap.lock();
        let replaced = self.replace(domain, gfn, (mfn, kind));
        drop(one_at_a_time);
        match replaced {
            Ok(Some((mfn, kind))) => self.put_foreign(mfn, kind),
            Ok(None) => {}
            Err(errno) => {
                self.put_foreign(mfn, kind);
                return Err(errno);
            }
        }
        Ok(())
    }

    /// Takes whatever memory is at `gfn` out of the map. Memory of the domain's own stays the domain's.
    pub(super) fn remove_from_map(&self, domain: &DomainRef<H>, gfn: Gfn) -> Result<(), Errno> {
        let one_at_a_time = domain.memory.physmap.lock();
        let entry = domain
            .p2m
            .lookup(gfn)
            .filter(|entry| entry.kind != P2mType::MmioDirect)
            .ok_or(Errno::ENOENT)?;
        let seen = (entry.mfn, entry.kind);
        if entry.kind == P2mType::XenShared {
            return self.hide(domain, gfn, entry.mfn);
        }
        let removed = domain
            .p2m
            .remove_if(gfn, seen, &self.tables(domain))
            .map_err(errno)?;
        drop(one_at_a_time);
        if removed && matches!(entry.kind, P2mType::ForeignRw | P2mType::ForeignRo) {
            self.put_foreign(entry.mfn, entry.kind);
        }
        removed.then_some(()).ok_or(Errno::ENOENT)
    }
}
