//! Holding a frame for writing.
//!
//! A page table of a paravirtual domain is written by nobody but the page-type system. So whoever else writes into memory of
//! such a domain uses it as [`FrameType::Writable`] meanwhile, which keeps it from becoming a page table. Frames of
//! translated domains have no types: their type count is always 0. What the hypervisor shows to a paravirtual domain is in
//! such a use from the start.

use xenolith_hal::{Hal, Mfn};

use super::{FrameRecord, FrameRef, FrameType};
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
        let frame = self.get_frame(mfn, owner.id())?;
        if owner.is_pv() && !self.begin_writing(mfn) {
            return None;
        }
        Some(WritableRef(frame))
    }

    /// Lets go of what was kept with [`WritableRef::keep`].
    #[inline]
    pub fn put_writable(&self, mfn: Mfn) {
        self.end_writing(mfn);
        self.put_frame(mfn);
    }

    /// Uses a frame of a paravirtual domain, on which the caller has a reference, as writable memory; false when it is
    /// something else now.
    pub(crate) fn begin_writing(&self, mfn: Mfn) -> bool {
        self.memory
            .record(mfn)
            .is_some_and(|record| record.get_type(FrameType::Writable).is_ok())
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
