//! Frames that hold segment descriptors: pages of a GDT or an LDT (`set_gdt`, `update_descriptor`, `MMUEXT_SET_LDT`).
//!
//! The CPU reads them, so each descriptor is checked and nobody writes them afterwards but the hypervisor. Code and data
//! segments are for ring 3 at least (a lower privilege level is raised); of the system kinds none is allowed, since all of
//! them lead to addresses that the hypervisor would have to check: gates, task state, other tables.

use core::sync::atomic::Ordering::{AcqRel, Relaxed};

use xenolith_core::{
    DomId, Errno,
    memory::{Claim, FrameRecord, FrameType, Refused},
};
use xenolith_hal::{Hal, Mfn};

use super::{AddressSpace, Machine, PageTables, Stop};

const PRESENT: u64 = 1 << 47;
const SEGMENT: u64 = 1 << 44;
const TYPE: u64 = 15 << 40;
const PRIVILEGE: u64 = 3 << 45;

/// A descriptor as the CPU shall see it; `None` for one that a guest may not have.
#[must_use]
pub const fn checked(descriptor: u64) -> Option<u64> {
    if descriptor & PRESENT == 0 {
        return Some(descriptor);
    }
    if descriptor & SEGMENT != 0 {
        return Some(descriptor | PRIVILEGE);
    }
    // The kind that means nothing.
    if descriptor & TYPE == 0 {
        return Some(descriptor | PRIVILEGE);
    }
    None
}

impl<H: Hal, M: Machine<H>> PageTables<'_, H, M> {
    /// Holds a frame of a domain as descriptors, checking them if nobody did. Never stops half way.
    pub fn hold_descriptors(self, mfn: Mfn, owner: DomId) -> Result<(), Errno> {
        let record = self.hv.memory.record(mfn).ok_or(Errno::EINVAL)?;
        loop {
            match record.claim(owner, FrameType::Descriptors) {
                Ok(Claim::Ready) => return Ok(()),
                Ok(Claim::Fresh(before)) => {
                    self.begin(record, mfn, before, FrameType::Descriptors);
                    return self.check_descriptors(record, mfn);
                }
                // No check of descriptors is ever left half way.
                Ok(Claim::Partial) => return self.check_descriptors(record, mfn),
                Err(Refused::Locked) => self.hv.hal.relax(),
                Err(_) => return Err(Errno::EINVAL),
            }
        }
    }

    fn check_descriptors(self, record: &FrameRecord, mfn: Mfn) -> Result<(), Errno> {
        let right = self.words(mfn).is_ok_and(|words| {
            words.iter().all(|word| {
                let change = |old| checked(old);
                word.fetch_update(AcqRel, Relaxed, change).is_ok()
            })
        });
        if right {
            record.set_valid();
            return Ok(());
        }
        self.end(record, mfn);
        Err(Errno::EINVAL)
    }

    /// Lets go of a frame that was held as descriptors.
    pub fn drop_descriptors(self, mfn: Mfn, space: &AddressSpace) {
        if let Some(record) = self.hv.memory.record(mfn) {
            self.let_go(record, mfn, space);
        }
    }

    /// `update_descriptor`: writes one descriptor of a frame of a domain: of one that is in use as descriptors, or of memory.
    pub fn update_descriptor(
        self,
        mfn: Mfn,
        slot: usize,
        descriptor: u64,
        owner: DomId,
        space: &AddressSpace,
    ) -> Result<(), Stop> {
        let new = checked(descriptor).ok_or(Errno::EINVAL)?;
        let record = self.hv.memory.record(mfn).ok_or(Errno::EINVAL)?;
        let word = self.words(mfn)?.get(slot).ok_or(Errno::EINVAL)?;
        match record.get_table(owner) {
            Some(FrameType::Descriptors) => {
                word.store(new, core::sync::atomic::Ordering::Release);
                self.let_go(record, mfn, space);
                Ok(())
            }
            Some(_) => {
                self.let_go(record, mfn, space);
                Err(Errno::EINVAL.into())
            }
            None => Ok(self.write_memory(mfn, slot, new, owner)?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CODE: u64 = 0x00af_9b00_0000_ffff;
    const DATA: u64 = 0x00cf_9300_0000_ffff;

    #[test]
    fn segments_are_raised_to_ring_3() {
        for segment in [CODE, DATA, CODE | PRIVILEGE, DATA | 1 << 45] {
            assert_eq!(checked(segment), Some(segment | PRIVILEGE));
        }
    }

    #[test]
    fn gates_and_system_segments_are_refused_unless_they_are_not_present() {
        for kind in 1..16_u64 {
            let descriptor = PRESENT | kind << 40 | PRIVILEGE;
            assert_eq!(checked(descriptor), None, "kind {kind}");
            assert!(checked(descriptor & !PRESENT).is_some());
        }
        assert!(checked(0).is_some() && checked(PRESENT).is_some());
    }
}
