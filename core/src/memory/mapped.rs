//! What page tables of paravirtual domains hold: references on frames, and uses of them as writable memory.
//!
//! Here the record's steps meet the machine: waiting for another CPU, and flushing TLBs before a frame that was a page table
//! may be written.

use xenolith_hal::{Hal, Mfn};

use super::{Class, Dropped, FrameRecord, Refused};
use crate::{DomId, Hypervisor};

impl<H: Hal> Hypervisor<H> {
    /// Takes what a page-table entry that leads to the frame holds: a reference, and for a writable one a use as such.
    /// [`Refused::NotOwned`] or [`Refused::Busy`] is all that comes back.
    #[inline(always)]
    pub fn get_mapping(
        &self,
        record: &FrameRecord,
        mfn: Mfn,
        owner: DomId,
        writable: bool,
    ) -> Result<(), Refused> {
        match record.get_mapping(owner, writable) {
            Ok(()) => Ok(()),
            Err(refused @ (Refused::NotOwned | Refused::Busy)) => Err(refused),
            Err(_) => self.get_mapping_when_settled(record, mfn, owner),
        }
    }

    #[cold]
    #[inline(never)]
    fn get_mapping_when_settled(
        &self,
        record: &FrameRecord,
        mfn: Mfn,
        owner: DomId,
    ) -> Result<(), Refused> {
        record.get_mapping(owner, false)?;
        self.use_as_writable(record)
            .inspect_err(|_| match record.put() {
                Dropped::Kept => {}
                dropped => self.frame_dropped(record, mfn, dropped),
            })
    }

    /// Uses a frame as writable memory; ends with [`FrameRecord::put_type`]. The caller holds a reference for as long. What
    /// the frame was used as before, no CPU has cached after this. [`Refused::Busy`] is all that comes back.
    pub fn use_as_writable(&self, record: &FrameRecord) -> Result<(), Refused> {
        loop {
            match record.get_writable() {
                Err(Refused::Locked) => self.hal.relax(),
                Err(Refused::Stale) => {
                    if record.claim_stale().is_ok() {
                        let stamp = record.last_unmapped().unwrap_or(u64::MAX);
                        self.hal.flush_stale(record.state().owner(), stamp);
                        record.unlock_writable();
                        return Ok(());
                    }
                }
                other => return other,
            }
        }
    }

    /// Drops what the entry held that was just taken out of a page table.
    #[inline(always)]
    pub fn put_mapping(&self, record: &FrameRecord, mfn: Mfn, writable: bool) {
        record.note_unmapped(self.hal.tlb_stamp());
        match record.put_mapping(writable) {
            Dropped::Kept => {}
            dropped => self.frame_dropped(record, mfn, dropped),
        }
    }

    /// Frees a frame whose last reference was dropped by a step of its record.
    #[cold]
    #[inline(never)]
    pub fn frame_dropped(&self, record: &FrameRecord, mfn: Mfn, dropped: Dropped) {
        // Memory that was the machine's since boot may be mapped as devices are, without a reference, and so is what the
        // hypervisor shows of its own.
        let uncounted = matches!(
            record.state().class(),
            Class::Reserved | Class::Hypervisor(_)
        );
        if dropped != Dropped::NotHeld || !uncounted {
            self.dropped(None, mfn, dropped);
        }
    }
}
