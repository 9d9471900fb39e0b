//! What memory a domain owns and may own.

use core::sync::atomic::{
    AtomicU64,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
};

use xenolith_hal::NoMemory;

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
    /// Most hypervisor frames that may be spent for it.
    pub hypervisor_max: AtomicU64,
}

impl DomainMemory {
    /// Nothing owned yet; the quota of hypervisor memory follows from `max`.
    pub const fn new(max: u64) -> Self {
        Self {
            owned: AtomicU64::new(0),
            max: AtomicU64::new(max),
            hypervisor: AtomicU64::new(0),
            hypervisor_max: AtomicU64::new(BASE_QUOTA + max / FRAMES_PER_TABLE),
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
        now.fetch_update(AcqRel, Relaxed, |now| {
            now.checked_add(frames).filter(|then| *then <= max)
        })
        .map(drop)
        .map_err(|_| NoMemory)
    }

    /// Counts `frames` less.
    pub fn uncharge(&self, charge: Charge, frames: u64) {
        let (now, _) = self.counter(charge);
        let before = now.fetch_sub(frames, Release);
        debug_assert!(before >= frames, "more memory uncharged than charged");
    }

    /// Whether nothing is owned or spent any more.
    pub fn is_empty(&self) -> bool {
        self.owned.load(Acquire) == 0 && self.hypervisor.load(Acquire) == 0
    }
}
