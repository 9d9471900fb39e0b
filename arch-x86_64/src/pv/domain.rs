//! What a PV domain has beside what every domain has.

use core::sync::atomic::{AtomicU64, Ordering::SeqCst};

use xenolith_hal::AtomicCpuMask;

/// The last time that a root of any domain was changed or made.
static CHANGES: AtomicU64 = AtomicU64::new(0);

/// See the module.
pub struct PvDomain {
    /// The CPUs that have one of its address spaces loaded.
    pub present: AtomicCpuMask,
    /// When a root of it was changed or made last: a number that no other domain ever has.
    changed: AtomicU64,
    /// How far the end of its page tables has come.
    pub release_at: AtomicU64,
}

impl PvDomain {
    /// A domain that runs nowhere.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            present: AtomicCpuMask::empty(),
            changed: AtomicU64::new(0),
            release_at: AtomicU64::new(0),
        }
    }

    /// A root was changed or made. Copies that were made before are old from now on.
    #[inline]
    pub fn note_change(&self) {
        let now = CHANGES.fetch_add(1, SeqCst) + 1;
        // Who counted later may have been faster: then the copies are made once more.
        self.changed.store(now, SeqCst);
    }

    /// When that was last.
    #[inline]
    #[must_use]
    pub fn changed(&self) -> u64 {
        self.changed.load(SeqCst)
    }
}

impl Default for PvDomain {
    fn default() -> Self {
        Self::new()
    }
}
