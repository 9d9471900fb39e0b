//! Grant tables.

use core::marker::PhantomData;
use xenolith_hal::Hal;

/// A domain's grants, and what it has mapped of others.
pub struct GrantTable<H: Hal> {
    marker: PhantomData<fn(H)>,
}

impl<H: Hal> GrantTable<H> {
    /// Nothing granted, nothing mapped.
    pub const fn new() -> Self {
        Self {
            marker: PhantomData,
        }
    }
}

impl<H: Hal> Default for GrantTable<H> {
    fn default() -> Self {
        Self::new()
    }
}
