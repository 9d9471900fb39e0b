//! The architecture-neutral hypervisor: domains, scheduling, memory, event channels, grants, hypercalls.
//!
//! Everything hangs off one [`Hypervisor`], which an image keeps in a static and a test makes by the dozen. The core
//! never names an architecture; what it needs of the machine it asks of its [`Hal`]. It holds no `unsafe`.
#![no_std]
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic
    )
)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod boot;
pub mod console;
pub mod debug_keys;
pub mod domain;
pub mod event;
pub mod grant;
pub mod guest;
pub mod hypercall;
pub mod memory;
pub mod sched;
#[cfg(test)]
pub(crate) mod testing;
pub mod timer;
pub mod vcpu;
pub mod vcpu_op;
pub mod wallclock;

use alloc::sync::Arc;
use xenolith_hal::Hal;

pub use domain::{DomId, Domain, DomainTable};
pub use event::InfoArea;
pub use vcpu::{Vcpu, VcpuId, VcpuRef};
pub use xenolith_abi::errno::Errno;

/// The whole hypervisor.
pub struct Hypervisor<H: Hal> {
    /// The machine.
    pub hal: H,
    /// One record per machine frame, and the allocator over them.
    pub memory: memory::Memory,
    /// Every domain by its number.
    pub domains: DomainTable<H>,
    /// Run queues, one per CPU.
    pub sched: sched::Scheduler<H>,
    /// Timers, one heap per CPU.
    pub timers: timer::Timers<H>,
    /// The machine's console.
    pub console: console::Console<H>,
    /// The time of day.
    pub wallclock: wallclock::Wallclock,
    /// The hypervisor's command line, once it is known.
    pub command_line: spin::Once<alloc::boxed::Box<str>>,
}

/// Shared ownership of a domain.
pub type DomainRef<H> = Arc<Domain<H>>;

impl<H: Hal> Hypervisor<H> {
    /// A hypervisor over the machine's memory with no domain and no CPU online.
    pub fn new(hal: H, memory: memory::Memory) -> Self {
        Self {
            hal,
            memory,
            domains: DomainTable::new(),
            sched: sched::Scheduler::new(),
            timers: timer::Timers::new(),
            console: console::Console::new(),
            wallclock: wallclock::Wallclock::new(),
            command_line: spin::Once::new(),
        }
    }
}
