//! What a PV domain has beside what every domain has.

use xenolith_hal::AtomicCpuMask;

/// See the module.
#[derive(Default)]
pub struct PvDomain {
    /// The CPUs that have one of its address spaces loaded.
    pub present: AtomicCpuMask,
}
