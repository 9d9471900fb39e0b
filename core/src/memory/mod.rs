//! Machine memory: a record per frame, the allocator, and what each domain owns.

mod frame;

pub use frame::{FrameRecord, FrameState};

use core::sync::atomic::AtomicU64;

/// Frame records and the allocator.
pub struct Memory {}

/// What a domain owns and may own.
pub struct DomainMemory {
    /// Frames owned now.
    pub owned: AtomicU64,
    /// Most frames it may own.
    pub max: AtomicU64,
}

impl DomainMemory {
    /// Nothing owned yet.
    pub const fn new(max: u64) -> Self {
        Self {
            owned: AtomicU64::new(0),
            max: AtomicU64::new(max),
        }
    }
}
