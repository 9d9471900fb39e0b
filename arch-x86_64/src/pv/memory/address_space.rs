//! The roots of a vCPU, and what its hypercalls on page tables left undone.
//!
//! A root that is noted here is held as an L4 table. A table whose check an interrupt stopped is held until the guest asks for
//! it again, one whose undoing was stopped until that is over. Only the CPU that runs the vCPU changes these (or the one that
//! ends its domain, when it runs no more).

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use xenolith_hal::Mfn;

const NONE: u64 = u64::MAX;

/// How many tables a single request can leave to be undone: the one that it replaces, the one that it does not use after all,
/// and the one where it writes.
const LEAVING: usize = 4;

/// What of page tables belongs to a vCPU.
pub struct AddressSpace {
    kernel: AtomicU64,
    user: AtomicU64,
    wanted: AtomicU64,
    leaving: [AtomicU64; LEAVING],
    leaving_count: AtomicU64,
}

impl Default for AddressSpace {
    fn default() -> Self {
        Self::new()
    }
}

fn read(place: &AtomicU64) -> Option<Mfn> {
    Some(Mfn(place.load(Relaxed))).filter(|mfn| mfn.0 != NONE)
}

fn write(place: &AtomicU64, root: Option<Mfn>) {
    place.store(root.map_or(NONE, |root| root.0), Relaxed);
}

impl AddressSpace {
    /// No roots.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            kernel: AtomicU64::new(NONE),
            user: AtomicU64::new(NONE),
            wanted: AtomicU64::new(NONE),
            leaving: [const { AtomicU64::new(NONE) }; LEAVING],
            leaving_count: AtomicU64::new(0),
        }
    }

    /// The root while the guest's kernel runs.
    #[inline(always)]
    #[must_use]
    pub fn kernel(&self) -> Option<Mfn> {
        read(&self.kernel)
    }

    /// The root while the guest's user runs.
    #[inline(always)]
    #[must_use]
    pub fn user(&self) -> Option<Mfn> {
        read(&self.user)
    }

    /// Every table that is held here, each as often as it is: for tests that count.
    pub fn held(&self) -> impl Iterator<Item = Mfn> + '_ {
        let leaving = self.leaving_count.load(Relaxed) as usize;
        [&self.kernel, &self.user, &self.wanted]
            .into_iter()
            .chain(self.leaving.iter().take(leaving))
            .filter_map(read)
    }

    pub(super) fn set_kernel(&self, root: Option<Mfn>) {
        write(&self.kernel, root);
    }

    pub(super) fn set_user(&self, root: Option<Mfn>) {
        write(&self.user, root);
    }

    /// The table that is held because its check goes on later.
    pub(super) fn wanted(&self) -> Option<Mfn> {
        read(&self.wanted)
    }

    pub(super) fn set_wanted(&self, table: Option<Mfn>) {
        write(&self.wanted, table);
    }

    /// Whether tables wait to be undone.
    #[inline(always)]
    pub(super) fn has_leaving(&self) -> bool {
        self.leaving_count.load(Relaxed) != 0
    }

    /// Keeps a table to be undone later.
    pub(super) fn push_leaving(&self, table: Mfn) {
        let count = self.leaving_count.load(Relaxed);
        let place = self.leaving.get(count as usize);
        debug_assert!(place.is_some(), "too many tables are left");
        if let Some(place) = place {
            place.store(table.0, Relaxed);
            self.leaving_count.store(count + 1, Relaxed);
        }
    }

    /// The table to be undone next.
    pub(super) fn last_leaving(&self) -> Option<Mfn> {
        let count = self.leaving_count.load(Relaxed).checked_sub(1)?;
        read(self.leaving.get(count as usize)?)
    }

    pub(super) fn pop_leaving(&self) {
        let count = self.leaving_count.load(Relaxed);
        self.leaving_count.store(count.saturating_sub(1), Relaxed);
    }
}
