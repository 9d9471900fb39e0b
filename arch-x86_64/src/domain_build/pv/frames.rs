//! Which machine frame stands behind each of a domain's own numbers, while it is built: blocks in the order in which they
//! were given, each continuing where the one before ended.

use alloc::vec::Vec;

use xenolith_hal::{Gfn, Mfn};

/// Machine frames in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The domain's number of the first.
    pub first: Gfn,
    /// The first.
    pub mfn: Mfn,
    /// How many.
    pub count: u64,
}

/// The frames of a domain by its own numbers, from 0 on without a gap.
#[derive(Clone, Debug, Default)]
pub struct FrameMap {
    extents: Vec<Extent>,
}

impl FrameMap {
    /// Adds frames behind all others.
    pub fn push(&mut self, mfn: Mfn, count: u64) {
        let first = Gfn(self.len());
        match self.extents.last_mut() {
            Some(last) if last.mfn.plus(last.count) == mfn => last.count += count,
            _ if count != 0 => self.extents.push(Extent { first, mfn, count }),
            _ => {}
        }
    }

    /// How many frames it has.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.extents.last().map_or(0, |e| e.first.0 + e.count)
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.extents.is_empty()
    }

    /// The machine frame behind a number.
    #[must_use]
    pub fn mfn(&self, pfn: Gfn) -> Option<Mfn> {
        let behind = self.extents.partition_point(|e| e.first <= pfn);
        let extent = self.extents.get(behind.checked_sub(1)?)?;
        let offset = pfn.0 - extent.first.0;
        (offset < extent.count).then(|| extent.mfn.plus(offset))
    }

    /// Its pieces, in order.
    pub fn extents(&self) -> impl Iterator<Item = Extent> {
        self.extents.iter().copied()
    }
}
