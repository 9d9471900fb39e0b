//! The simulated architecture's parts of a vCPU and a domain: they record what the core asks of them.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

/// The architecture's part of a vCPU.
#[derive(Default)]
pub struct SimVcpu {
    upcalls: AtomicU64,
    interrupt: AtomicBool,
}

impl SimVcpu {
    /// How often an upcall was raised since the last call.
    pub fn take_upcalls(&self) -> u64 {
        self.upcalls.swap(0, SeqCst)
    }

    /// The same, and the count goes on.
    pub fn upcalls(&self) -> u64 {
        self.upcalls.load(SeqCst)
    }

    /// Gives the vCPU an interrupt of another kind that its guest would take, or takes it away.
    pub fn set_interrupt(&self, pending: bool) {
        self.interrupt.store(pending, SeqCst);
    }

    pub(crate) fn raise(&self) {
        self.upcalls.fetch_add(1, SeqCst);
    }

    pub(crate) fn interrupt_pending(&self) -> bool {
        self.interrupt.load(SeqCst)
    }
}

/// The architecture's part of a domain.
#[derive(Default)]
pub struct SimDomain {
    released: AtomicU64,
}

impl SimDomain {
    /// How often the domain's hold on the machine was dropped.
    pub fn released(&self) -> u64 {
        self.released.load(SeqCst)
    }

    pub(crate) fn release(&self) {
        self.released.fetch_add(1, SeqCst);
    }
}
