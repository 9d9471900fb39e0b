//! The format of a table, and the change from one to the other (`GNTTABOP_set_version`).
//!
//! Whoever uses an entry holds its lock and reads the format under it. A change says first that it is under way, then takes
//! each lock once: from then on nobody uses an entry until it is over. Pins stay what they are, for an entry's pins hang
//! by its number; only the first eight entries may have any, and these entries are carried over.

use core::sync::atomic::{
    AtomicU8,
    Ordering::{Relaxed, SeqCst},
};

use xenolith_abi::{
    DomId, Errno, GrantRef,
    grant_table::{
        EntryFlags, EntryV1, EntryV2, GetVersion, NR_RESERVED_ENTRIES, SetVersion, entry_type,
    },
};
use xenolith_hal::{AtomicOp::Swap, GuestVirt, Hal, PAGE_SIZE, sync::relax};

use super::{GrantTable, entry::SharedWord, pin::GuestWord, setup};
use crate::{DomainRef, Hypervisor, guest::Caller};

/// How the entries of a table are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Eight bytes, marks inside.
    V1,
    /// Sixteen bytes, marks apart.
    V2,
    /// Between the two: wait, with no lock held.
    Changing,
    /// The domain ends, and its table with it.
    Closed,
}

/// The format, and the newest that the domain may choose.
pub(super) struct Version {
    now: AtomicU8,
    most: AtomicU8,
}

impl Version {
    pub(super) const fn new(most: u8) -> Self {
        Self {
            now: AtomicU8::new(1),
            most: AtomicU8::new(most),
        }
    }

    #[inline]
    pub(super) fn get(&self) -> Format {
        match self.now.load(SeqCst) {
            1 => Format::V1,
            2 => Format::V2,
            3 => Format::Changing,
            _ => Format::Closed,
        }
    }

    pub(super) fn close(&self) {
        self.now.store(0, SeqCst);
    }
}

impl<H: Hal> GrantTable<H> {
    /// The format now.
    #[inline]
    pub fn format(&self) -> Format {
        self.version.get()
    }

    /// The format, once no change is under way; none lasts long. No entry may be locked.
    pub fn settled_format(&self) -> Format {
        loop {
            match self.format() {
                Format::Changing => relax(),
                settled => return settled,
            }
        }
    }

    /// Chooses the newest format that the domain may have: 1 or 2, as far as the architecture has it.
    pub fn set_max_version(&self, most: u8) {
        let most = most.min(H::MAX_GRANT_VERSION);
        self.version.most.store(most, Relaxed);
    }

    fn number(&self) -> u32 {
        match self.settled_format() {
            Format::V2 => 2,
            _ => 1,
        }
    }
}

pub(super) fn set_version<H: Hal>(caller: Caller<'_, H>, arg: GuestVirt) -> Result<(), Errno> {
    let wanted: SetVersion = caller.read(arg)?;
    let domain = caller.domain();
    let result = match wanted.version {
        1 => caller.hv.change_format(domain, Format::V1),
        2 if domain.grants.version.most.load(Relaxed) < 2 => Err(Errno::ENOSYS),
        2 => caller.hv.change_format(domain, Format::V2),
        _ => Err(Errno::EINVAL),
    };
    let version = domain.grants.number();
    caller.write(arg, &SetVersion { version })?;
    result
}

pub(super) fn get_version<H: Hal>(caller: Caller<'_, H>, arg: GuestVirt) -> Result<(), Errno> {
    use xenolith_abi::grant_table::GrantStatus;
    let mut op: GetVersion = caller.read(arg)?;
    let domain = setup::managed(caller, op.dom).map_err(|status| match status {
        GrantStatus::PermissionDenied => Errno::EPERM,
        _ => Errno::ESRCH,
    })?;
    op.version = domain.grants.number();
    caller.write(arg, &op)
}

/// An entry that is carried over.
type Kept = (EntryFlags, DomId, u64);

impl<H: Hal> Hypervisor<H> {
    /// Lays the table out anew. `EBUSY` while an entry beyond the first eight is in use, `ENOMEM`.
    fn change_format(&self, domain: &DomainRef<H>, to: Format) -> Result<(), Errno> {
        let grants = &domain.grants;
        self.grow_grants(domain, 1).map_err(|_| Errno::ENOMEM)?;
        let _in_use = domain.memory.enter().ok_or(Errno::EINVAL)?;
        let from = {
            let _growth = grants.growth.lock();
            let from = grants.format();
            if from == to {
                return Ok(());
            }
            if to == Format::V2 {
                self.grow_status(domain, grants.frame_count())
                    .map_err(|_| Errno::ENOMEM)?;
            }
            // Another change, or the end of the domain, came first.
            if !matches!(from, Format::V1 | Format::V2) {
                return Err(Errno::EBUSY);
            }
            grants.version.now.store(3, SeqCst);
            from
        };
        let busy = self.grants_in_use(domain);
        if !busy {
            self.lay_out(domain, to);
        }
        let now = if busy { from } else { to };
        let number = if now == Format::V2 { 2 } else { 1 };
        grants.version.now.store(number, SeqCst);
        match busy {
            true => Err(Errno::EBUSY),
            false => Ok(()),
        }
    }

    /// Whether an entry is in use that cannot be carried over. Takes the lock of each.
    fn grants_in_use(&self, domain: &DomainRef<H>) -> bool {
        let frames = domain.grants.frames.iter().map_while(spin::Once::get);
        let mut entries = frames.flat_map(|frame| &frame.entries);
        let reserved = NR_RESERVED_ENTRIES as usize;
        entries
            .by_ref()
            .take(reserved)
            .for_each(|entry| drop(entry.lock()));
        entries.fold(false, |busy, entry| busy | !entry.lock().pins.is_none())
    }

    /// Clears the table and puts the first entries back in the other format.
    fn lay_out(&self, domain: &DomainRef<H>, to: Format) {
        let grants = &domain.grants;
        let reserved = || (0..NR_RESERVED_ENTRIES).map(GrantRef);
        let mut kept: [Kept; NR_RESERVED_ENTRIES as usize] = Default::default();
        for (gref, slot) in reserved().zip(&mut kept) {
            *slot = self.kept_entry(domain, gref, to).unwrap_or_default();
        }
        let frames = grants.frames.iter().map_while(spin::Once::get);
        frames.for_each(|frame| self.hal.zero_frames(frame.mfn, 0));
        let status = grants.status.iter().map_while(spin::Once::get);
        status.for_each(|frame| self.hal.zero_frames(frame.mfn, 0));
        for (gref, (flags, domid, frame)) in reserved().zip(kept) {
            match to {
                Format::V2 => {
                    if let Some(entry) = grants.split_entry(&self.hal, gref) {
                        let _ = entry.put(flags, domid, frame);
                    }
                }
                _ => {
                    if let Some(place) = grants.entry(gref) {
                        let word = u64::from(flags.0) | u64::from(domid.0) << 16 | frame << 32;
                        let _ = self.hal.atomic64(place.mfn, place.offset, Swap(word));
                    }
                }
            }
        }
    }

    /// What becomes of one of the first entries: a grant of a whole page stays.
    fn kept_entry(&self, domain: &DomainRef<H>, gref: GrantRef, to: Format) -> Option<Kept> {
        let grants = &domain.grants;
        let (flags, header, frame) = match to {
            Format::V2 => {
                let place = grants.entry(gref)?;
                let word = GuestWord::new(&self.hal, &place);
                let header = word.load();
                (
                    EntryFlags(header as u16),
                    header,
                    u64::from(word.frame_number()),
                )
            }
            _ => {
                let entry = grants.split_entry(&self.hal, gref)?;
                (entry.flags(), entry.load(), entry.frame_number())
            }
        };
        let whole_page = flags.entry_type() == entry_type::PERMIT_ACCESS
            && !flags.contains(EntryFlags::SUB_PAGE)
            && (to == Format::V2 || u32::try_from(frame).is_ok());
        whole_page.then_some((flags, DomId((header >> 16) as u16), frame))
    }
}

const _: () = assert!(PAGE_SIZE / size_of::<EntryV2>() == EntryV2::PER_PAGE as usize);
const _: () = assert!(PAGE_SIZE / size_of::<EntryV1>() == EntryV1::PER_PAGE as usize);
