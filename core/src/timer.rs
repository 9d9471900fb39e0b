//! Timers: a heap of deadlines per CPU.

use core::marker::PhantomData;
use xenolith_hal::Hal;

/// Every CPU's timers.
pub struct Timers<H: Hal> {
    marker: PhantomData<fn(H)>,
}

impl<H: Hal> Timers<H> {
    /// No timer set.
    pub const fn new() -> Self {
        Self {
            marker: PhantomData,
        }
    }
}
