//! What memory a domain owns and may own.
//!
//! Destruction closes the account first: from then on nothing can be charged to it, and who was at work on the domain's
//! memory before ([`InUse`]) is waited for. So the walk that takes the memory back meets no newcomers.

use core::sync::atomic::{
    AtomicU64,
    Ordering::{AcqRel, Relaxed, SeqCst},
};

use xenolith_hal::{
    NoMemory,
    sync::{Mutex, Rank},
};

use super::frame::Charge;

/// Hypervisor frames that every domain may use, whatever its size: 4 MiB of tables and shared frames.
const BASE_QUOTA: u64 = 1024;
/// And one more for so many frames of memory: twice what second-level tables of single frames need.
const FRAMES_PER_TABLE: u64 = 256;

/// What a domain owns and may own, in frames.
pub struct DomainMemory {
    /// Frames owned now.
    pub owned: AtomicU64,
    /// Most frames it may own.
    pub max: AtomicU64,
    /// Hypervisor frames spent for it: second-level tables, shared info, grant table frames.
    pub hypervisor: AtomicU64,
    /// Those of them that are second-level tables.
    pub tables: AtomicU64,
    /// Most hypervisor frames that may be spent for it.
    pub hypervisor_max: AtomicU64,
    /// How many are changing the domain's memory now, and [`CLOSED`].
    users: AtomicU64,
    /// Held while a memory call changes the physical map, so that what it replaces is let go exactly once.
    pub(crate) physmap: Mutex<()>,
}

const CLOSED: u64 = 1 << 63;

/// Keeps a domain's memory from being taken back while it is changed.
pub struct InUse<'a>(&'a DomainMemory);

impl Drop for InUse<'_> {
    fn drop(&mut self) {
        self.0.users.fetch_sub(1, SeqCst);
    }
}

impl DomainMemory {
    /// Nothing owned yet; the quota of hypervisor memory follows from `max`.
    pub const fn new(max: u64) -> Self {
        Self {
            owned: AtomicU64::new(0),
            max: AtomicU64::new(max),
            hypervisor: AtomicU64::new(0),
            tables: AtomicU64::new(0),
            hypervisor_max: AtomicU64::new(BASE_QUOTA + max / FRAMES_PER_TABLE),
            users: AtomicU64::new(0),
            physmap: Mutex::new(Rank::Physmap, ()),
        }
    }

    fn counter(&self, charge: Charge) -> (&AtomicU64, &AtomicU64) {
        match charge {
            Charge::Memory => (&self.owned, &self.max),
            Charge::Hypervisor => (&self.hypervisor, &self.hypervisor_max),
        }
    }

    /// Counts `frames` more, unless the domain would then have more than it may.
    pub fn charge(&self, charge: Charge, frames: u64) -> Result<(), NoMemory> {
        let (now, max) = self.counter(charge);
        let max = max.load(Relaxed);
        if self.is_closed() {
            return Err(NoMemory);
        }
        now.fetch_update(AcqRel, Relaxed, |now| {
            now.checked_add(frames).filter(|then| *then <= max)
        })
        .map(drop)
        .map_err(|_| NoMemory)
    }

    /// Counts `frames` less.
    pub fn uncharge(&self, charge: Charge, frames: u64) {
        let (now, _) = self.counter(charge);
        let change = now.fetch_update(SeqCst, Relaxed, |now| now.checked_sub(frames));
        debug_assert!(change.is_ok(), "more memory uncharged than charged");
    }

    /// Announces a change to the domain's memory; `None` when the domain is being destroyed.
    pub fn enter(&self) -> Option<InUse<'_>> {
        self.users
            .fetch_update(SeqCst, Relaxed, |users| {
                (users & CLOSED == 0).then(|| users + 1)
            })
            .ok()?;
        Some(InUse(self))
    }

    /// Lets nobody change the domain's memory or charge it from now on; true when nobody is at it any more.
    pub(crate) fn close(&self) -> bool {
        self.users.fetch_or(CLOSED, SeqCst) & !CLOSED == 0
    }

    /// Whether the domain is being destroyed.
    pub fn is_closed(&self) -> bool {
        self.users.load(SeqCst) & CLOSED != 0
    }

    /// Whether nothing is owned or spent any more.
    pub fn is_empty(&self) -> bool {
        self.owned.load(SeqCst) == 0 && self.hypervisor.load(SeqCst) == 0
    }
}
