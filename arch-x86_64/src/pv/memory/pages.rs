//! What leaf entries hold.
//!
//! A reference on the frame, and for an entry that allows writing a use of it as writable memory. Frames without a record
//! (devices) are allowed by right and not counted, and so is what the hypervisor shows for ever. Entries for granted frames are no different: they take their own reference
//! beside the grant's, so whatever the guest does to such an entry later, the counts stay right.

use core::sync::atomic::{
    AtomicU64,
    Ordering::{AcqRel, Relaxed},
};

use xenolith_core::{
    DomId, Errno,
    memory::{Charge, Class, FrameRecord, Refused},
};
use xenolith_hal::{Hal, Mfn};

use super::{IoAccess, Machine, PageTables, Rights, entry};

impl<H: Hal, M: Machine<H>> PageTables<'_, H, M> {
    /// Takes what a leaf entry holds, and gives the entry as the CPU shall see it.
    #[inline(always)]
    pub(super) fn take_leaf(self, new: u64, rights: &Rights<'_, H>) -> Result<u64, Errno> {
        if new & entry::PRESENT == 0 {
            return Ok(new);
        }
        if new & rights.refused != 0 {
            return Err(Self::refusal(new, rights));
        }
        let mfn = entry::frame(new);
        let writable = new & entry::WRITABLE != 0;
        if writable && rights.untyped {
            return self.take_untyped(new, mfn, rights);
        }
        let Some(record) = self.hv.memory.record(mfn) else {
            return self.take_device(new, mfn, rights);
        };
        if record.get_mapping(rights.owner, writable).is_err() {
            return self.take_slowly(new, record, mfn, rights);
        }
        if new & entry::CACHE != 0 {
            self.set_cache(record, mfn, writable)?;
        }
        Ok(entry::leaf(new))
    }

    /// What is wrong with an entry that may not be. An address that the machine does not have is a device's that nobody may
    /// map.
    #[cold]
    #[inline(never)]
    fn refusal(new: u64, rights: &Rights<'_, H>) -> Errno {
        match new & (rights.refused & !entry::ADDRESS | entry::UNTYPED) {
            0 => Errno::EPERM,
            _ => Errno::EINVAL,
        }
    }

    /// The counterpart for writing to a frame of a translated domain.
    #[cold]
    #[inline(never)]
    fn take_untyped(self, new: u64, mfn: Mfn, rights: &Rights<'_, H>) -> Result<u64, Errno> {
        let record = self.hv.memory.record(mfn);
        let Some(record) = record.filter(|record| record.state().class() != Class::Reserved) else {
            return self.take_device(new, mfn, rights);
        };
        let taken = self.hv.get_mapping(record, mfn, rights.owner, false);
        taken.map_err(|_| Errno::EBUSY)?;
        if new & entry::CACHE != 0 {
            self.set_cache(record, mfn, false)?;
        }
        Ok(entry::leaf(new) | entry::UNTYPED)
    }

    /// What the quick way above did not do: waiting for another CPU, and memory of the machine.
    #[cold]
    #[inline(never)]
    fn take_slowly(
        self,
        new: u64,
        record: &FrameRecord,
        mfn: Mfn,
        rights: &Rights<'_, H>,
    ) -> Result<u64, Errno> {
        let writable = new & entry::WRITABLE != 0;
        if let Err(refused) = self.hv.get_mapping(record, mfn, rights.owner, writable) {
            let machines = record.state().class() == Class::Reserved;
            let shown = || rights.owner == DomId::XEN && self.machine.shows(mfn);
            return match refused {
                Refused::NotOwned if shown() => Self::take_shown(new),
                Refused::NotOwned if machines => self.take_device(new, mfn, rights),
                _ => Err(Errno::EBUSY),
            };
        }
        if new & entry::CACHE != 0 {
            self.set_cache(record, mfn, writable)?;
        }
        Ok(entry::leaf(new))
    }

    /// An entry for RAM, whose reference is taken, has cache attributes. Memory that the hypervisor shares with a domain is
    /// cached as the hypervisor has it; other frames remember that they were written past the caches.
    #[cold]
    #[inline(never)]
    fn set_cache(self, record: &FrameRecord, mfn: Mfn, writable: bool) -> Result<(), Errno> {
        if record.state().charge() == Charge::Hypervisor {
            self.hv.put_mapping(record, mfn, writable);
            return Err(Errno::EACCES);
        }
        if writable {
            record.set_uncached();
        }
        Ok(())
    }

    /// The counterpart for a frame of the hypervisor's that is there to be read, cached as the hypervisor has it.
    #[cold]
    #[inline(never)]
    fn take_shown(new: u64) -> Result<u64, Errno> {
        if new & entry::WRITABLE != 0 {
            Err(Errno::EBUSY)
        } else if new & entry::CACHE != 0 {
            Err(Errno::EACCES)
        } else {
            Ok(entry::leaf(new))
        }
    }

    /// The counterpart for a frame that has no owner.
    #[cold]
    #[inline(never)]
    fn take_device(self, new: u64, mfn: Mfn, rights: &Rights<'_, H>) -> Result<u64, Errno> {
        match self.machine.io(rights.io, mfn) {
            IoAccess::Refused => Err(Errno::EPERM),
            IoAccess::ReadOnly => Ok(entry::leaf(new & !entry::WRITABLE)),
            IoAccess::ReadWrite => Ok(entry::leaf(new)),
        }
    }

    /// Drops what a leaf entry held that is no longer in a table.
    #[inline(always)]
    pub(super) fn drop_leaf(self, old: u64) {
        if old & entry::PRESENT == 0 {
            return;
        }
        let mfn = entry::frame(old);
        if let Some(record) = self.hv.memory.record(mfn) {
            self.hv.put_mapping(record, mfn, entry::holds_writing(old));
        }
    }

    /// An entry for writing loses only that: its use of the frame as writable ends, its reference stays.
    #[inline(always)]
    pub(super) fn drop_writing(self, old: u64) {
        if let Some(record) = self.hv.memory.record(entry::frame(old)) {
            record.note_unmapped(self.hv.hal.tlb_stamp());
            if record.state().owner().is_some() && entry::holds_writing(old) {
                record.put_type();
            }
        }
    }
}

/// Puts an entry as the CPU shall see it in the place of the one that was checked. What the CPU set meanwhile stays. False
/// when the place holds something else by now.
#[inline(always)]
pub(super) fn write_back(word: &AtomicU64, checked: u64, new: u64) -> bool {
    let mut old = checked;
    while entry::same_but_for_cpu(old, checked) {
        let with = new | old & entry::BY_CPU;
        match word.compare_exchange(old, with, AcqRel, Relaxed) {
            Ok(_) => return true,
            Err(now) => old = now,
        }
    }
    false
}
