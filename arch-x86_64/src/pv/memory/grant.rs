//! Entries for granted frames.
//!
//! The grant code holds the frame for as long as the grant is mapped; the entry made here takes a reference of its own, like
//! any other. So a guest may overwrite such an entry by `mmu_update` and the counts stay right: the entry's reference goes,
//! the grant's stays until the guest ends the grant, which fails as long as the entry is not the one that the grant made.
//! And no entry of another domain's frame is made by `mmu_update`: the frame is not its owner's.

use core::sync::atomic::Ordering::{AcqRel, Relaxed};

use xenolith_abi::grant_table::{GrantStatus, MapFlags};
use xenolith_core::{
    Errno,
    grant::{PvMapping, PvPlace},
    guest::Caller,
    memory::FrameRecord,
};
use xenolith_hal::{GuestVirt, Hal};

use super::{AddressSpace, EntryPlace, Flush, Machine, PageTables, Rights, entry, update::CpuBits};

/// What of an entry must be as the grant made it.
const FIXED: u64 = entry::ADDRESS | entry::PRESENT | entry::WRITABLE;

/// The entry that a mapping asks for.
fn wanted(mapping: &PvMapping) -> u64 {
    const AVAILABLE: u32 = MapFlags::GUEST_AVAIL_MASK.0.trailing_zeros();
    let mut new =
        mapping.mfn.base().0 & entry::ADDRESS | entry::PRESENT | entry::ACCESSED | entry::DIRTY;
    let bit = |on: bool, bits: u64| if on { bits } else { 0 };
    new |= bit(mapping.is_writable(), entry::WRITABLE);
    let user = mapping.flags.contains(MapFlags::APPLICATION_MAP);
    new |= bit(user, entry::USER);
    new | (u64::from(mapping.flags.0) >> AVAILABLE & 7) << 9
}

impl<H: Hal, M: Machine<H>> PageTables<'_, H, M> {
    /// Makes an entry of the caller's lead to a granted frame, which the grant code holds.
    pub fn map_granted(
        self,
        caller: Caller<'_, H>,
        mapping: &PvMapping,
    ) -> Result<(), GrantStatus> {
        let failed = |_| GrantStatus::GeneralError;
        let space = self.machine.address_space(caller.vcpu);
        let place = self.place_of(space, mapping.place).map_err(failed)?;
        let record = self.hv.memory.record(mapping.mfn);
        let state = record.map(FrameRecord::state);
        let state = state.ok_or(GrantStatus::GeneralError)?;
        let rights = Rights {
            owner: state.owner().ok_or(GrantStatus::GeneralError)?,
            io: caller.domain(),
            refused: self.machine.no_address(),
            // The grant code uses it as writable by now, unless its owner is translated.
            untyped: state.type_count() == 0,
        };
        self.with_l1(place, caller.domain().id(), space, |words| {
            let word = words.get(place.slot).ok_or(Errno::EINVAL)?;
            self.update_leaf(word, wanted(mapping), CpuBits::Replaced, &rights)
        })
        .map_err(failed)
    }

    /// When this returns, no TLB holds an entry that [`PageTables::unmap_granted`] took from the caller.
    pub fn flush_granted(self, caller: Caller<'_, H>) {
        self.flush_all(caller, Flush::All);
    }

    /// Empties the entry again, or puts in its place the one that maps `new`, which is emptied instead. TLBs may hold the
    /// entry until [`PageTables::flush_granted`]. An error when it is not as the grant made it: then nothing changes.
    pub fn unmap_granted(
        self,
        caller: Caller<'_, H>,
        mapping: &PvMapping,
        new: Option<GuestVirt>,
    ) -> Result<(), GrantStatus> {
        let failed = |_| GrantStatus::GeneralError;
        let (owner, space) = (
            caller.domain().id(),
            self.machine.address_space(caller.vcpu),
        );
        let place = self.place_of(space, mapping.place).map_err(failed)?;
        let stolen = match new {
            None => 0,
            Some(address) => self.steal(caller, address).map_err(failed)?,
        };
        let expected = wanted(mapping) & FIXED;
        let replaced = self.with_l1(place, owner, space, |words| {
            let word = words.get(place.slot).ok_or(Errno::EINVAL)?;
            loop {
                let old = word.load(Relaxed);
                if old & FIXED != expected {
                    return Err(Errno::EINVAL);
                }
                if word.compare_exchange(old, stolen, AcqRel, Relaxed).is_ok() {
                    self.drop_leaf(old);
                    return Ok(());
                }
            }
        });
        if replaced.is_err() {
            // What it held has no place any more.
            self.drop_leaf(stolen);
        }
        replaced.map_err(failed)
    }

    /// Empties the entry that maps an address, and gives it with what it holds.
    #[cold]
    #[inline(never)]
    fn steal(self, caller: Caller<'_, H>, address: GuestVirt) -> Result<u64, Errno> {
        let (owner, space) = (
            caller.domain().id(),
            self.machine.address_space(caller.vcpu),
        );
        let place = self.l1_entry(space, address)?;
        self.with_l1(place, owner, space, |words| {
            let word = words.get(place.slot).ok_or(Errno::EINVAL)?;
            Ok(word.swap(0, AcqRel))
        })
    }

    #[inline(always)]
    fn place_of(self, space: &AddressSpace, place: PvPlace) -> Result<EntryPlace, Errno> {
        match place {
            PvPlace::Address(address) => self.l1_entry(space, address),
            PvPlace::Entry(address) if address.0.is_multiple_of(8) => Ok(EntryPlace {
                table: address.frame(),
                slot: address.offset() / 8,
            }),
            PvPlace::Entry(_) => Err(Errno::EINVAL),
        }
    }
}
