//! The scheduler.

use core::marker::PhantomData;
use xenolith_hal::Hal;

/// What the scheduler knows of a vCPU.
#[derive(Default)]
pub struct VcpuSched {}

impl VcpuSched {
    /// A vCPU that is down.
    pub const fn new() -> Self {
        Self {}
    }
}

/// Run queues, one per CPU.
pub struct Scheduler<H: Hal> {
    marker: PhantomData<fn(H)>,
}

impl<H: Hal> Scheduler<H> {
    /// No CPU online.
    pub const fn new() -> Self {
        Self {
            marker: PhantomData,
        }
    }
}
