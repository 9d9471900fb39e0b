//! Holding a frame for writing.
//!
//! A page table of a paravirtual domain is written by nobody but the page-type system. So whoever else writes into memory of
//! such a domain uses it as [`FrameType::Writable`] meanwhile, which keeps it from becoming a page table. Frames of
//! translated domains have no types: their type count is always 0. What the hypervisor shows to a paravirtual domain is in
//! such a use from the start.

use xenolith_hal::{Hal, Mfn};

use super::{Charge, Dropped, FrameRecord, FrameRef, Refused};
use crate::{Domain, Hypervisor};

/// A reference on a frame that may be written; dropping it lets go.
pub struct WritableRef<'a, H: Hal>(FrameRef<'a, H>);

impl<H: Hal> WritableRef<'_, H> {
    /// The frame.
    pub fn mfn(&self) -> Mfn {
        self.0.mfn()
    }

    /// Keeps the frame beyond this value; somebody calls [`Hypervisor::put_writable`] for it later.
    pub fn keep(self) -> Mfn {
        let mfn = self.mfn();
        core::mem::forget(self);
        mfn
    }
}

impl<H: Hal> Drop for WritableRef<'_, H> {
    fn drop(&mut self) {
        // The reference goes after this, with the field.
        self.0.hypervisor().end_writing(self.0.mfn());
    }
}

impl<H: Hal> Hypervisor<H> {
    /// A reference for writing on a frame, if it belongs to `owner` and is nothing that its owner may not write itself.
    #[inline]
    pub fn get_writable(&self, mfn: Mfn, owner: &Domain<H>) -> Option<WritableRef<'_, H>> {
        if !owner.is_pv() {
            return self.get_frame(mfn, owner.id()).map(WritableRef);
        }
        let record = self.memory.record(mfn)?;
        self.get_mapping(record, mfn, owner.id(), true).ok()?;
        Some(WritableRef(FrameRef::adopt(self, mfn)))
    }

    /// Lets go of what was kept with [`WritableRef::keep`].
    #[inline]
    pub fn put_writable(&self, mfn: Mfn) {
        if !H::PV {
            return self.put_frame(mfn);
        }
        if let Some(record) = self.memory.record(mfn) {
            match record.put_mapping(has_uses(record)) {
                Dropped::Kept => {}
                dropped => self.dropped(None, mfn, dropped),
            }
        }
    }

    /// A reference where `take` is one step of the frame's record; `None` says nothing.
    #[inline(always)]
    fn get_quickly(
        &self,
        mfn: Mfn,
        take: impl FnOnce(&FrameRecord) -> bool,
    ) -> Option<FrameRef<'_, H>> {
        take(self.memory.record(mfn)?).then(|| FrameRef::adopt(self, mfn))
    }

    /// As [`Hypervisor::get_granted`] where that is one step.
    #[inline(always)]
    pub(crate) fn get_granted_quickly(
        &self,
        mfn: Mfn,
        owner: &Domain<H>,
        writable: bool,
    ) -> Option<FrameRef<'_, H>> {
        self.get_quickly(mfn, |record| record.get_memory(owner.id(), writable))
    }

    /// As [`Hypervisor::get_mappable`] where that is one step.
    #[inline(always)]
    pub(crate) fn get_mappable_quickly(
        &self,
        mfn: Mfn,
        owner: &Domain<H>,
        writable: bool,
    ) -> Option<FrameRef<'_, H>> {
        self.get_quickly(mfn, |record| record.get_used_so(owner.id(), writable))
    }

    /// Memory of a paravirtual domain's own that it may grant: a reference, and for writing a use as such.
    /// [`Refused::NotOwned`] for what is not its memory.
    #[inline]
    pub(crate) fn get_granted(
        &self,
        mfn: Mfn,
        owner: &Domain<H>,
        writable: bool,
    ) -> Result<FrameRef<'_, H>, Refused> {
        let record = self.memory.record(mfn).ok_or(Refused::NotOwned)?;
        if record.state().charge() != Charge::Memory {
            return Err(Refused::NotOwned);
        }
        self.get_mappable(mfn, owner, writable)
    }

    /// The same of whatever a paravirtual domain may map: what the hypervisor shows to it, too.
    #[inline]
    pub(crate) fn get_mappable(
        &self,
        mfn: Mfn,
        owner: &Domain<H>,
        writable: bool,
    ) -> Result<FrameRef<'_, H>, Refused> {
        let record = self.memory.record(mfn).ok_or(Refused::NotOwned)?;
        self.get_mapping(record, mfn, owner.id(), writable)?;
        Ok(FrameRef::adopt(self, mfn))
    }

    /// Uses a frame of a paravirtual domain, on which the caller has a reference, as writable memory; false when it is
    /// something else now.
    pub(crate) fn begin_writing(&self, mfn: Mfn) -> bool {
        self.memory
            .record(mfn)
            .is_some_and(|record| self.use_as_writable(record).is_ok())
    }

    /// Ends one such use. Nothing happens to a frame of a translated domain.
    #[inline]
    pub(crate) fn end_writing(&self, mfn: Mfn) {
        if H::PV
            && let Some(record) = self.memory.record(mfn)
            && has_uses(record)
        {
            record.put_type();
        }
    }
}

#[inline]
fn has_uses(record: &FrameRecord) -> bool {
    record.state().type_count() != 0
}

#[cfg(test)]
mod tests {
    use xenolith_hal::Gfn;
    use xenolith_sim::Sim;

    use crate::{memory::FrameType, testing};

    #[test]
    fn a_refused_reference_lets_nobody_elses_go() {
        let hv = testing::hypervisor(&Sim::small());
        let (one, other) = (testing::domain(&hv, 1, 4), testing::domain(&hv, 2, 4));
        let held = hv.pin_own(&one, Gfn(1)).unwrap();
        let count = || hv.memory.record(held.mfn()).unwrap().state().count();
        assert_eq!(count(), 2);
        assert!(hv.get_frame(held.mfn(), other.id()).is_none());
        assert!(hv.get_writable(held.mfn(), &other).is_none());
        assert_eq!(count(), 2);
    }

    #[test]
    fn a_frame_that_is_held_for_writing_becomes_no_page_table_and_the_other_way_round() {
        let hv = testing::hypervisor(&Sim::small());
        let domain = testing::pv(&hv, 1, 4);
        let mfn = testing::mfn_at(&domain, 1);
        let record = hv.memory.record(mfn).unwrap();
        let held = hv.pin_own(&domain, Gfn(mfn.0)).unwrap();
        assert!(record.claim(domain.id(), FrameType::L1).is_err());
        let kept = held.keep();
        assert_eq!(record.state().type_count(), 1);
        hv.put_writable(kept);
        assert_eq!(
            (record.state().type_count(), record.state().count()),
            (0, 1)
        );
        testing::make_table(&hv, &domain, mfn);
        assert!(hv.get_writable(mfn, &domain).is_none());
        assert_eq!(
            (record.state().type_count(), record.state().count()),
            (1, 2)
        );
        testing::end_table(&hv, mfn);
        let flushes = hv.hal.tlbs().forced();
        assert!(hv.get_writable(mfn, &domain).is_some());
        assert!(
            hv.hal.tlbs().forced() > flushes,
            "it may be cached as a table"
        );
    }

    #[test]
    fn what_a_guest_is_shown_becomes_no_page_table() {
        let hv = testing::hypervisor(&Sim::small());
        let domain = testing::pv(&hv, 1, 4);
        let record = hv.memory.record(domain.shared_info).unwrap();
        assert!(record.claim(domain.id(), FrameType::L1).is_err());
        assert!(hv.pin_own(&domain, Gfn(domain.shared_info.0)).is_none());
        assert!(hv.pin(&domain, Gfn(domain.shared_info.0)).is_some());
        let translated = testing::domain(&hv, 2, 4);
        let record = hv.memory.record(translated.shared_info).unwrap();
        assert_eq!(record.state().type_count(), 0);
    }
}
