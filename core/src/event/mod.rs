//! Event channels.

use core::marker::PhantomData;
use xenolith_hal::Hal;

/// A domain's event channels.
pub struct EventTable<H: Hal> {
    marker: PhantomData<fn(H)>,
}

impl<H: Hal> EventTable<H> {
    /// No channel in use.
    pub const fn new() -> Self {
        Self {
            marker: PhantomData,
        }
    }
}

impl<H: Hal> Default for EventTable<H> {
    fn default() -> Self {
        Self::new()
    }
}
