//! The virtual interrupt controller that guests see: the distributor of a domain, and a redistributor (GICv3) or banked
//! registers (GICv2) per vCPU. It is a model in software over list registers ([`hw::Hardware`]); it knows nothing of
//! domains, schedulers or address spaces, and runs on the host against a model of the hardware in its tests.
//!
//! # One interrupt's states
//!
//! ```text
//!              raise, inject, line up                flush, or at once for the running vCPU
//!   inactive ──────────────────────────▶ pending ─────────────────────────────▶ resident, pending
//!      ▲                            (latch or line;    ◀─────────────────────          │
//!      │                             queued when        evicted by a better one,       │ guest
//!      │                             enabled, routed    disabled, cancelled            │ acknowledges
//!      │                             and not active)                                   ▼
//!      └───────────────────────────────────────────────────────────────────── resident, active
//!          retired: the list register was found empty;      guest deactivates   (and pending, when
//!          still asserted or latched again: pending                             raised again)
//! ```
//!
//! A *latch* is an event that has not reached a list register; it is cleared when it does. A *line* is an emulated
//! device's level and stays until the device lowers it. A resident interrupt's state lives in its list register; the
//! model learns it by looking (`synchronize`), which happens only when registers run out, on a maintenance interrupt, before
//! pending or active state is read, and when somebody changed a resident interrupt from outside. It does not happen on
//! every exit.
//!
//! Behind some virtual interrupts stands a physical one (passed-through devices, the virtual timer). Its list register
//! is linked to it: the physical interrupt stays active, so silent, until the guest deactivates the virtual one.
//!
//! # Locks
//!
//! The domain's interrupt lock (`Rank::Interrupts`) protects shared interrupts; each vCPU's lock
//! (`Rank::VcpuInterrupts`) its private interrupts, its queue and its list registers. Order: domain, then one vCPU. Never
//! two vCPUs at once. Software interrupts, the timer and event channel upcalls take only the vCPU's lock. `notify` may be
//! called with the domain's lock held: it may take locks of higher rank only.
//!
//! Only the CPU that has a vCPU loaded touches its list registers; every other CPU queues, marks the vCPU dirty and
//! notifies.

mod access;
mod banks;
mod dist;
mod distributor;
mod flush;
pub mod hw;
mod queue;
mod redistributor;
mod sgi;
mod shared;
#[cfg(test)]
mod tests;
mod vcpu;

use alloc::{boxed::Box, sync::Arc};

use xenolith_hal::sync::{Mutex, Rank};

use crate::gic::{Ppis, Version};
use dist::Dist;

pub use access::{BadAccess, Size};
pub use redistributor::{REDIST_SIZE, affinity_of};
pub use vcpu::VgicVcpu;

/// Most vCPUs that a domain may have: GICv2 names them by one bit each.
#[must_use]
pub const fn max_vcpus(version: Version) -> usize {
    match version {
        Version::V2 => 8,
        Version::V3 => 4096,
    }
}

/// What a domain's interrupt controller is made with.
#[derive(Clone, Copy, Debug)]
pub struct VgicConfig {
    /// The machine's version; guests get the same.
    pub version: Version,
    /// How many vCPUs the domain has, up to [`max_vcpus`].
    pub vcpus: usize,
    /// How many interrupt numbers the domain has, private ones counted; rounded up to a multiple of 32.
    pub lines: u32,
    /// The private interrupts that the hypervisor deals with.
    pub ppis: Ppis,
}

/// A domain's interrupt controller.
pub struct VgicDomain {
    version: Version,
    /// Words of interrupt numbers, the private one counted.
    words: usize,
    dist: Mutex<Dist>,
    vcpus: Box<[Arc<VgicVcpu>]>,
}

impl VgicDomain {
    /// An interrupt controller as after reset: everything off.
    #[must_use]
    pub fn new(config: &VgicConfig) -> Self {
        let words = config.lines.div_ceil(32).clamp(1, 32) as usize;
        let vcpus = config.vcpus.min(max_vcpus(config.version));
        let route = match config.version {
            Version::V2 => 1,
            Version::V3 => 0,
        };
        Self {
            version: config.version,
            words,
            dist: Mutex::new(Rank::Interrupts, Dist::new(words, route)),
            vcpus: (0..vcpus)
                .map(|index| Arc::new(VgicVcpu::new(config.version, config.ppis, index)))
                .collect(),
        }
    }

    /// Which version the guest sees.
    #[must_use]
    pub const fn version(&self) -> Version {
        self.version
    }

    /// How many interrupt numbers the domain has, private ones counted.
    #[must_use]
    pub const fn lines(&self) -> u32 {
        let lines = self.words as u32 * 32;
        if lines > 1020 { 1020 } else { lines }
    }

    /// One vCPU's part.
    #[inline]
    #[must_use]
    pub fn vcpu(&self, index: usize) -> Option<&Arc<VgicVcpu>> {
        self.vcpus.get(index)
    }
}
