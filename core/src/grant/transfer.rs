//! Giving a page away (`GNTTABOP_transfer`), from one paravirtual domain to another that set an entry up for it.
//!
//! The page goes as it is, with what is in it. It must have no other use. The receiver sees `GTF_transfer_committed` when
//! its entry is bound to the transfer, and `GTF_transfer_completed` when the entry's frame number is the page's.

use xenolith_abi::{
    DomId,
    grant_table::{EntryFlags, EntryV1, GrantStatus, Transfer, entry_type},
};
use xenolith_hal::{
    AtomicOp::{Or, Swap},
    Hal, Mfn,
};

use super::{Format, entry::SharedWord, pin::GuestWord};
use crate::{DomainRef, Hypervisor, guest::Caller, memory::NotHandedOver};

/// Makes one transfer of a paravirtual caller.
pub(super) fn transfer<H: Hal>(caller: Caller<'_, H>, op: &Transfer) -> Result<(), GrantStatus> {
    let (hv, own, mfn) = (caller.hv, caller.domain(), Mfn(op.mfn));
    hv.owned_record(mfn, own.id()).ok_or(GrantStatus::BadPage)?;
    let receiver = hv.domains.get(op.domid).ok_or(GrantStatus::BadDomain)?;
    let number = u32::try_from(mfn.0).map_err(|_| GrantStatus::AddressTooBig)?;
    hv.hand_over(mfn, own, &receiver, || {
        hv.commit_transfer(&receiver, op, own.id()).is_some()
    })
    .map_err(|error| match error {
        NotHandedOver::InUse => GrantStatus::BadPage,
        NotHandedOver::Refused => GrantStatus::GeneralError,
    })?;
    hv.complete_transfer(&receiver, op, number);
    Ok(())
}

impl<H: Hal> Hypervisor<H> {
    /// Binds an entry to a transfer from `giver`; `None` when it waits for none.
    fn commit_transfer(&self, receiver: &DomainRef<H>, op: &Transfer, giver: DomId) -> Option<()> {
        let place = receiver.grants.entry(op.gref)?;
        let active = place.active.lock();
        if receiver.grants.format() != Format::V1 || !active.pins.is_none() {
            return None;
        }
        let word = GuestWord::new(&self.hal, &place);
        let waits = u32::from(giver.0) << 16 | u32::from(entry_type::ACCEPT_TRANSFER);
        let committed = waits | u32::from(EntryFlags::TRANSFER_COMMITTED);
        (word.replace(waits, committed) == waits).then_some(())
    }

    /// The page is the receiver's.
    fn complete_transfer(&self, receiver: &DomainRef<H>, op: &Transfer, number: u32) {
        if let Some(place) = receiver.grants.entry(op.gref) {
            let frame = place.offset + core::mem::offset_of!(EntryV1, frame);
            self.hal.word32(place.frame, frame, Swap(number));
            let completed = Or(EntryFlags::TRANSFER_COMPLETED);
            self.hal.word16(place.frame, place.offset, completed);
        }
    }
}
