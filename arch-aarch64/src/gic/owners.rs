//! Which domain a physical shared interrupt belongs to.

use core::sync::atomic::{AtomicU16, Ordering::Relaxed};

/// Whoever owns a physical interrupt, as a number that means something to the caller: a domain's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner(pub u16);

const NOBODY: u16 = u16::MAX;

/// One entry per interrupt number.
pub(super) struct Owners([AtomicU16; 1024]);

impl Owners {
    pub(super) const fn new() -> Self {
        Self([const { AtomicU16::new(NOBODY) }; 1024])
    }

    #[inline]
    pub(super) fn get(&self, intid: u32) -> Option<Owner> {
        let owner = self.0.get(intid as usize)?.load(Relaxed);
        (owner != NOBODY).then_some(Owner(owner))
    }

    pub(super) fn set(&self, intid: u32, owner: Option<Owner>) {
        if let Some(entry) = self.0.get(intid as usize) {
            entry.store(owner.map_or(NOBODY, |o| o.0), Relaxed);
        }
    }
}
