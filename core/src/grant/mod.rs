//! Grant tables, versions 1 and 2 (`grant_table.h`): a domain lets others map and copy pages of its own.
//!
//! The granter's side is a table of frames that it shares with the hypervisor, and beside each entry the pins that are on
//! it (`entry`). The mapper's side is a table of handles (`maptrack`). A pinned grant holds one reference on its frame; a
//! mapping holds its granter, so that undoing it looks no domain up. On the fast path of map, unmap and copy only the
//! entry is locked, and no two entries at once.

mod cache;
mod copy;
mod dump;
pub mod entry;
mod map;
mod maptrack;
mod op;
mod pin;
mod pv;
mod release;
mod setup;
mod split;
#[cfg(test)]
mod tests;
mod transfer;
mod version;

use alloc::boxed::Box;
use core::sync::atomic::{
    AtomicU32, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

use xenolith_abi::{
    DomId, GrantRef,
    grant_table::{EntryV1, EntryV2},
};
use xenolith_hal::{
    Hal, Mfn, NoMemory, PAGE_SIZE,
    sync::{Mutex, Rank},
};

pub use copy::copy_one;
pub use dump::{GrantFacts, MappingFacts, TableFacts};
pub use op::grant_table_op;
pub use pv::{PvMapping, PvPlace, map_one, unmap_one};
pub use release::Released;
pub use version::Format;

use crate::{
    DomainRef, Hypervisor,
    memory::{Charge, try_boxed_slice},
};
use entry::Pins;
use maptrack::Maptrack;
use version::Version;

/// Most frames of a table, Xen's default.
pub const MAX_FRAMES: u32 = 64;
const ENTRIES: usize = EntryV1::PER_PAGE as usize;
/// Table frames of version 2 whose status words stand in one frame.
const FRAMES_PER_STATUS: u32 = EntryV2::STATUS_PER_PAGE / EntryV2::PER_PAGE;
/// Most frames of status words.
pub const MAX_STATUS_FRAMES: u32 = MAX_FRAMES / FRAMES_PER_STATUS;

/// The hypervisor's side of an entry.
struct Active {
    pins: Pins,
    /// Who pins it, and which frame; meaningful while there are pins.
    grantee: DomId,
    mfn: Mfn,
}

/// A frame of the table and the hypervisor's side of its entries.
struct TableFrame<H: Hal> {
    mfn: Mfn,
    frame: H::Frame,
    /// Where the granter sees the frame; all ones for nowhere.
    gfn: AtomicU64,
    entries: Box<[Mutex<Active>]>,
}

/// A frame of status words.
struct StatusFrame {
    mfn: Mfn,
    /// Where the granter sees the frame; all ones for nowhere.
    gfn: AtomicU64,
}

/// A domain's grants, and what it has mapped of others.
pub struct GrantTable<H: Hal> {
    frames: [spin::Once<TableFrame<H>>; MAX_FRAMES as usize],
    /// How many of them exist.
    count: AtomicU32,
    /// The status words of version 2. They stay when the table goes back to version 1.
    status: [spin::Once<StatusFrame>; MAX_STATUS_FRAMES as usize],
    growth: Mutex<()>,
    version: Version,
    maptrack: Maptrack<H>,
    /// Frames of the hypervisor's heap that are charged to the domain for all this.
    charged: AtomicU64,
}

/// An entry that was found: where its shared half lies, and the lock of the other half.
struct EntryPlace<'a, H: Hal> {
    mfn: Mfn,
    frame: H::Frame,
    offset: usize,
    active: &'a Mutex<Active>,
}

impl<H: Hal> GrantTable<H> {
    /// Whether there can be tables of version 2.
    const HAS_SPLIT: bool = H::MAX_GRANT_VERSION > 1;

    /// Nothing granted, nothing mapped.
    pub const fn new() -> Self {
        Self {
            frames: [const { spin::Once::new() }; MAX_FRAMES as usize],
            count: AtomicU32::new(0),
            status: [const { spin::Once::new() }; MAX_STATUS_FRAMES as usize],
            growth: Mutex::new(Rank::Grant, ()),
            version: Version::new(H::MAX_GRANT_VERSION),
            maptrack: Maptrack::new(),
            charged: AtomicU64::new(0),
        }
    }

    fn frame_count(&self) -> u32 {
        self.count.load(Acquire)
    }

    fn frame(&self, index: u32) -> Option<&TableFrame<H>> {
        self.frames.get(index as usize)?.get()
    }

    /// An entry of version 1, and the lock of any.
    #[inline]
    fn entry(&self, GrantRef(gref): GrantRef) -> Option<EntryPlace<'_, H>> {
        let at = gref as usize;
        let frame = self.frames.get(at / ENTRIES)?.get()?;
        Some(EntryPlace {
            mfn: frame.mfn,
            frame: frame.frame,
            offset: at % ENTRIES * size_of::<EntryV1>(),
            active: frame.entries.get(at % ENTRIES)?,
        })
    }

    /// Written under the entry's lock before it is read under that lock: who sees it unset has the table's frames.
    fn is_closed(&self) -> bool {
        self.format() == Format::Closed
    }
}

impl<H: Hal> Default for GrantTable<H> {
    fn default() -> Self {
        Self::new()
    }
}

impl<H: Hal> Hypervisor<H> {
    /// Lets a domain's table have at least `wanted` frames. Fails beyond [`MAX_FRAMES`], for want of memory, and when the
    /// domain ends.
    fn grow_grants(&self, domain: &DomainRef<H>, wanted: u32) -> Result<(), NoMemory> {
        let grants = &domain.grants;
        if wanted <= grants.frame_count() {
            return Ok(());
        }
        // Whoever takes the domain apart waits until the new frames are where it looks for them.
        let _in_use = domain.memory.enter().ok_or(NoMemory)?;
        let _growth = grants.growth.lock();
        if grants.format() != Format::V1 {
            self.grow_status(domain, wanted)?;
        }
        for index in grants.frame_count()..wanted {
            let slot = grants.frames.get(index as usize).ok_or(NoMemory)?;
            slot.try_call_once(|| self.new_table_frame(domain))?;
            grants.count.store(index + 1, Release);
        }
        Ok(())
    }

    /// Lets there be status words for `frames` frames of the table. The lock of growth is held.
    fn grow_status(&self, domain: &DomainRef<H>, frames: u32) -> Result<(), NoMemory> {
        let wanted = frames.div_ceil(FRAMES_PER_STATUS) as usize;
        for slot in domain.grants.status.iter().take(wanted) {
            slot.try_call_once(|| {
                Ok(StatusFrame {
                    mfn: self.allocate_shared(domain)?,
                    gfn: AtomicU64::new(u64::MAX),
                })
            })?;
        }
        Ok(())
    }

    fn new_table_frame(&self, domain: &DomainRef<H>) -> Result<TableFrame<H>, NoMemory> {
        if domain.grants.is_closed() {
            return Err(NoMemory);
        }
        let heap = (ENTRIES * size_of::<Mutex<Active>>()).div_ceil(PAGE_SIZE) as u64;
        domain.memory.charge(Charge::Hypervisor, heap)?;
        let made = self.table_frame_parts(domain);
        match made {
            Ok(_) => drop(domain.grants.charged.fetch_add(heap, Relaxed)),
            Err(_) => domain.memory.uncharge(Charge::Hypervisor, heap),
        }
        made
    }

    fn table_frame_parts(&self, domain: &DomainRef<H>) -> Result<TableFrame<H>, NoMemory> {
        let unused = || {
            let (pins, grantee, mfn) = (Pins::default(), DomId::INVALID, Mfn(0));
            let active = Active { pins, grantee, mfn };
            Mutex::new(Rank::Grant, active)
        };
        let entries = try_boxed_slice((0..ENTRIES).map(|_| unused()))?;
        let mfn = self.allocate_shared(domain)?;
        let Some(frame) = self.hal.frame(mfn) else {
            self.release_shared(domain, mfn);
            return Err(NoMemory);
        };
        Ok(TableFrame {
            mfn,
            frame,
            gfn: AtomicU64::new(u64::MAX),
            entries,
        })
    }
}
