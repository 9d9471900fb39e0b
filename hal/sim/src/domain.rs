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
    pirqs: AtomicU64,
}

impl SimDomain {
    /// How often the domain's hold on the machine was dropped.
    pub fn released(&self) -> u64 {
        self.released.load(SeqCst)
    }

    /// The physical interrupts that may come, a bit for each of the 64 that there are.
    pub fn open_pirqs(&self) -> u64 {
        self.pirqs.load(SeqCst)
    }

    pub(crate) fn open_pirq(&self, pirq: u32) -> bool {
        let bit = 1u64.checked_shl(pirq);
        bit.is_some_and(|bit| self.pirqs.fetch_or(bit, SeqCst) & bit == 0)
    }

    pub(crate) fn close_pirq(&self, pirq: u32) {
        let bit = 1u64.checked_shl(pirq).unwrap_or(0);
        self.pirqs.fetch_and(!bit, SeqCst);
    }

    pub(crate) fn release(&self) {
        self.released.fetch_add(1, SeqCst);
    }
}
