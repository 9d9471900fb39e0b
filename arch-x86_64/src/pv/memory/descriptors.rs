//! Frames that hold segment descriptors: pages of a GDT or an LDT (`set_gdt`, `update_descriptor`, `MMUEXT_SET_LDT`).
//!
//! The CPU reads them, so each descriptor is checked and nobody writes them afterwards but the hypervisor. Code and data
//! segments are for ring 3 at least (a lower privilege level is raised). Of the system kinds only call gates to a guest's own
//! code are allowed, as gates of ring 0, through which nothing of a guest comes: its call is a fault. The others lead to
//! addresses that the hypervisor would have to check: other gates, task state, other tables.

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
const CALL_GATE: u64 = 12 << 40;
/// Bits of a call gate that mean nothing in long mode.
const GATE_RESERVED: u64 = 0xff << 32;

/// The first selector of the hypervisor's page of the global table.
pub const HYPERVISORS: u16 = 14 << 12;
/// The one there that is the guests' 64-bit code.
pub const CODE: u16 = HYPERVISORS + 0x30 + 3;
/// The selector is of the local table.
const LOCAL: u16 = 4;

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
    if descriptor & (TYPE | GATE_RESERVED) == CALL_GATE && is_guests((descriptor >> 16) as u16) {
        return Some(descriptor & !PRIVILEGE);
    }
    None
}

/// Whether a selector names code that can only be a guest's.
const fn is_guests(selector: u16) -> bool {
    selector & LOCAL != 0 || selector < HYPERVISORS || selector == CODE
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

    const CODE_64: u64 = 0x00af_9b00_0000_ffff;
    const DATA: u64 = 0x00cf_9300_0000_ffff;

    #[test]
    fn segments_are_raised_to_ring_3() {
        for segment in [CODE_64, DATA, CODE_64 | PRIVILEGE, DATA | 1 << 45] {
            assert_eq!(checked(segment), Some(segment | PRIVILEGE));
        }
    }

    #[test]
    fn gates_and_system_segments_are_refused_unless_they_are_not_present() {
        for kind in 1..16_u64 {
            // A gate of these would lead to the hypervisor's code.
            let descriptor = PRESENT | kind << 40 | PRIVILEGE | u64::from(HYPERVISORS + 8) << 16;
            assert_eq!(checked(descriptor), None, "kind {kind}");
            assert!(checked(descriptor & !PRESENT).is_some());
        }
        assert!(checked(0).is_some() && checked(PRESENT).is_some());
    }

    #[test]
    fn a_call_gate_leads_to_a_guests_code_and_nobody_in_ring_3_comes_through() {
        let gate = |selector: u16| PRESENT | CALL_GATE | PRIVILEGE | u64::from(selector) << 16;
        for selector in [CODE, 0, 8, 0x33, HYPERVISORS - 1, 0x0007, 0xffff] {
            let wanted = gate(selector) & !PRIVILEGE;
            assert_eq!(checked(gate(selector)), Some(wanted), "{selector:#x}");
            assert_eq!(checked(wanted), Some(wanted));
            for bit in 32..40 {
                assert_eq!(checked(gate(selector) | 1 << bit), None);
            }
        }
        for selector in [HYPERVISORS, HYPERVISORS + 8, CODE & !3, 0xfff8] {
            assert_eq!(checked(gate(selector)), None, "{selector:#x}");
        }
    }
}
