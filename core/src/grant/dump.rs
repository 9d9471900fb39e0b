//! A domain's grants for a person to read: debug key `g`.

use core::{fmt, sync::atomic::Ordering::Relaxed};

use xenolith_abi::{DomId, GrantHandle, GrantRef, grant_table::EntryFlags};
use xenolith_hal::{Gfn, Hal, Mfn};

use super::{
    ENTRIES, Format, GrantTable,
    entry::{Access, Pins, SharedWord},
    map::access,
    pin::GuestWord,
};
use crate::{DomainRef, Hypervisor};

/// A grant that is in use.
#[derive(Clone, Copy, Debug)]
pub struct GrantFacts {
    /// Its number.
    pub gref: GrantRef,
    /// Who uses it.
    pub grantee: DomId,
    /// The frame.
    pub mfn: Mfn,
    /// How often it is in use.
    pub pins: Pins,
    /// What its granter wrote.
    pub flags: EntryFlags,
    /// The granter's frame number.
    pub frame: u64,
}

impl fmt::Display for GrantFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "ref {:#x}: d{} uses mfn {:#x} ({} readers, {} writers); entry: flags {:#x} gfn {:#x}",
            self.gref.0,
            self.grantee.0,
            self.mfn.0,
            self.pins.readers(),
            self.pins.writers(),
            self.flags.0,
            self.frame,
        )
    }
}

/// A grant of another domain that is mapped.
#[derive(Clone, Copy, Debug)]
pub struct MappingFacts {
    /// Its handle.
    pub handle: GrantHandle,
    /// Whose grant it is.
    pub granter: DomId,
    /// Which grant.
    pub gref: GrantRef,
    /// Where it is mapped.
    pub gfn: Gfn,
    /// The frame.
    pub mfn: Mfn,
    /// How it is mapped.
    pub access: Access,
}

impl fmt::Display for MappingFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rights = match self.access {
            Access::Read => "r",
            Access::Write => "rw",
        };
        let (granter, gref) = (self.granter.0, self.gref.0);
        write!(
            f,
            "handle {:#x}: d{granter} ref {gref:#x} at gfn {:#x} {rights}",
            self.handle.0, self.gfn.0
        )
    }
}

/// What a domain's grant table costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableFacts {
    /// Frames that the table shares with its granter; none once it is closed.
    pub frames: u32,
    /// Frames of the hypervisor's heap that are charged for it.
    pub heap: u64,
    /// Whether the domain ends and its table is gone.
    pub closed: bool,
}

impl<H: Hal> GrantTable<H> {
    /// What the table costs.
    pub fn facts(&self) -> TableFacts {
        let closed = self.is_closed();
        TableFacts {
            frames: if closed { 0 } else { self.frame_count() },
            heap: self.charged.load(Relaxed),
            closed,
        }
    }
}

impl<H: Hal> Hypervisor<H> {
    /// Calls `f` for each grant of a domain that is in use. No lock is held while it runs.
    pub fn dump_grants(&self, domain: &DomainRef<H>, mut f: impl FnMut(&GrantFacts)) {
        for gref in (0..domain.grants.frame_count() * ENTRIES as u32).map(GrantRef) {
            let Some(place) = domain.grants.entry(gref) else {
                continue;
            };
            let active = place.active.lock();
            if active.pins.is_none() || domain.grants.is_closed() {
                continue;
            }
            let (flags, frame) = match domain.grants.format() {
                Format::V1 => {
                    let word = GuestWord::new(&self.hal, &place);
                    (EntryFlags(word.load() as u16), word.frame_number().into())
                }
                Format::V2 => match domain.grants.split_entry(&self.hal, gref) {
                    Some(entry) => (entry.flags(), entry.frame_number()),
                    None => continue,
                },
                Format::Changing | Format::Closed => continue,
            };
            let facts = GrantFacts {
                gref,
                grantee: active.grantee,
                mfn: active.mfn,
                pins: active.pins,
                flags,
                frame,
            };
            drop(active);
            f(&facts);
        }
    }

    /// Calls `f` for each grant that a domain has mapped. No lock is held while it runs.
    pub fn dump_mappings(&self, domain: &DomainRef<H>, mut f: impl FnMut(&MappingFacts)) {
        let track = &domain.grants.maptrack;
        for handle in track.handles() {
            let facts = track.with(handle, |mapping| MappingFacts {
                handle,
                granter: mapping.granter.id(),
                gref: mapping.gref,
                gfn: mapping.gfn,
                mfn: mapping.mfn,
                access: access(mapping.flags),
            });
            if let Some(facts) = facts {
                f(&facts);
            }
        }
    }
}
