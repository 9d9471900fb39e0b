//! A lock that many may hold for reading, with a [`Rank`], fair to readers and writers.

use super::{Rank, phase_fair::PhaseFair};

/// A reader-writer spin lock that guards something outside Rust's view, such as page tables.
///
/// Both sides wait a bounded number of turns ([`PhaseFair`]). Who reads must not read again: debug builds panic.
pub struct SharedLock {
    inner: PhaseFair,
    #[cfg_attr(not(debug_assertions), allow(dead_code))]
    rank: Rank,
}

/// Reads until dropped.
#[must_use]
pub struct Reading<'a>(&'a SharedLock);

/// Writes until dropped.
#[must_use]
pub struct Writing<'a>(&'a SharedLock);

impl SharedLock {
    /// An open lock.
    #[must_use]
    pub fn new(rank: Rank) -> Self {
        Self {
            inner: PhaseFair::new(),
            rank,
        }
    }

    /// Waits until no writer works.
    #[inline(always)]
    pub fn read(&self) -> Reading<'_> {
        #[cfg(debug_assertions)]
        super::order::enter(self.rank, false);
        self.inner.begin_read();
        Reading(self)
    }

    /// Waits until nobody else works.
    pub fn write(&self) -> Writing<'_> {
        #[cfg(debug_assertions)]
        super::order::enter(self.rank, false);
        self.inner.begin_write();
        Writing(self)
    }
}

impl Drop for Reading<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        self.0.inner.end_read();
        #[cfg(debug_assertions)]
        super::order::leave(self.0.rank);
    }
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        self.0.inner.end_write();
        #[cfg(debug_assertions)]
        super::order::leave(self.0.rank);
    }
}
