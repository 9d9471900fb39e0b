//! Grant tables, version 1 (`grant_table.h`): a domain lets others map and copy pages of its own.
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
mod release;
mod setup;
#[cfg(test)]
mod tests;

use alloc::boxed::Box;
use core::sync::atomic::{
    AtomicBool, AtomicU32, AtomicU64,
    Ordering::{Acquire, Relaxed, Release, SeqCst},
};

use xenolith_abi::{DomId, GrantRef, grant_table::EntryV1};
use xenolith_hal::{
    Hal, Mfn, NoMemory, PAGE_SIZE,
    sync::{Mutex, Rank},
};

pub use dump::{GrantFacts, MappingFacts, TableFacts};
pub use op::grant_table_op;
pub use release::Released;

use crate::{
    DomainRef, Hypervisor,
    memory::{Charge, try_boxed_slice},
};
use entry::Pins;
use maptrack::Maptrack;

/// Most frames of a table, Xen's default.
pub const MAX_FRAMES: u32 = 64;
const ENTRIES: usize = EntryV1::PER_PAGE as usize;

/// The hypervisor's side of an entry.
struct Active {
    pins: Pins,
    /// Who pins it, and which frame; meaningful while there are pins.
    grantee: DomId,
    mfn: Mfn,
}

/// A frame of the table and the hypervisor's side of its entries.
struct TableFrame {
    mfn: Mfn,
    /// Where the granter sees the frame; all ones for nowhere.
    gfn: AtomicU64,
    entries: Box<[Mutex<Active>]>,
}

/// A domain's grants, and what it has mapped of others.
pub struct GrantTable<H: Hal> {
    frames: [spin::Once<TableFrame>; MAX_FRAMES as usize],
    /// How many of them exist.
    count: AtomicU32,
    growth: Mutex<()>,
    /// The domain ends: its table is no longer there to be written to.
    closed: AtomicBool,
    maptrack: Maptrack<H>,
    /// Frames of the hypervisor's heap that are charged to the domain for all this.
    charged: AtomicU64,
}

/// An entry that was found: where its shared half lies, and the lock of the other half.
struct EntryPlace<'a> {
    mfn: Mfn,
    offset: usize,
    active: &'a Mutex<Active>,
}

impl<H: Hal> GrantTable<H> {
    /// Nothing granted, nothing mapped.
    pub const fn new() -> Self {
        Self {
            frames: [const { spin::Once::new() }; MAX_FRAMES as usize],
            count: AtomicU32::new(0),
            growth: Mutex::new(Rank::Grant, ()),
            closed: AtomicBool::new(false),
            maptrack: Maptrack::new(),
            charged: AtomicU64::new(0),
        }
    }

    fn frame_count(&self) -> u32 {
        self.count.load(Acquire)
    }

    fn frame(&self, index: u32) -> Option<&TableFrame> {
        self.frames.get(index as usize)?.get()
    }

    #[inline]
    fn entry(&self, GrantRef(gref): GrantRef) -> Option<EntryPlace<'_>> {
        let at = gref as usize;
        let frame = self.frames.get(at / ENTRIES)?.get()?;
        Some(EntryPlace {
            mfn: frame.mfn,
            offset: at % ENTRIES * size_of::<EntryV1>(),
            active: frame.entries.get(at % ENTRIES)?,
        })
    }

    /// Written under the entry's lock before it is read under that lock: who sees it unset has the table's frames.
    fn is_closed(&self) -> bool {
        self.closed.load(SeqCst)
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
        for index in grants.frame_count()..wanted {
            let slot = grants.frames.get(index as usize).ok_or(NoMemory)?;
            slot.try_call_once(|| self.new_table_frame(domain))?;
            grants.count.store(index + 1, Release);
        }
        Ok(())
    }

    fn new_table_frame(&self, domain: &DomainRef<H>) -> Result<TableFrame, NoMemory> {
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

    fn table_frame_parts(&self, domain: &DomainRef<H>) -> Result<TableFrame, NoMemory> {
        let unused = || {
            let (pins, grantee, mfn) = (Pins::default(), DomId::INVALID, Mfn(0));
            let active = Active { pins, grantee, mfn };
            Mutex::new(Rank::Grant, active)
        };
        let entries = try_boxed_slice((0..ENTRIES).map(|_| unused()))?;
        Ok(TableFrame {
            mfn: self.allocate_shared(domain)?,
            gfn: AtomicU64::new(u64::MAX),
            entries,
        })
    }
}
