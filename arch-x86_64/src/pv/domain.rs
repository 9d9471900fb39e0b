//! What a PV domain has beside what every domain has.

use core::sync::atomic::AtomicU64;

use xenolith_hal::AtomicCpuMask;

/// See the module.
#[derive(Default)]
pub struct PvDomain {
    /// The CPUs that have one of its address spaces loaded.
    pub present: AtomicCpuMask,
    /// How far the end of its page tables has come.
    pub release_at: AtomicU64,
}
