//! What a PV domain has beside what every domain has.

use core::sync::atomic::AtomicU64;

use xenolith_hal::AtomicCpuMask;

/// See the module.
pub struct PvDomain {
    /// The CPUs that have one of its address spaces loaded.
    pub present: AtomicCpuMask,
    /// How far the end of its page tables has come.
    pub release_at: AtomicU64,
}

impl PvDomain {
    /// A domain that runs nowhere.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            present: AtomicCpuMask::empty(),
            release_at: AtomicU64::new(0),
        }
    }
}

impl Default for PvDomain {
    fn default() -> Self {
        Self::new()
    }
}
