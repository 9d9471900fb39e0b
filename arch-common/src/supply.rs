//! Where the heap's memory comes from: the frame allocator, and a reserve for when it has nothing.
//!
//! The core looks whether there is room for an object before it makes it; another CPU may take that room in between. The
//! reserve is for this moment. It is small and serves small requests only. Once used, it is set aside anew as soon as the
//! allocator has frames again: when the heap grows, and from [`Supply::refill`], which each CPU calls when it idles.

use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

use spin::Once;
use xenolith_hal::{
    Mfn, PAGE_SIZE,
    sync::{Mutex, Rank},
};

/// Gives `1 << order` frames, or nothing.
pub type FrameSource = fn(u32) -> Option<Mfn>;

/// log2 frames by which the heap grows at least: 256 KiB.
const GROW_ORDER: u32 = 6;
/// log2 frames of the reserve: 64 KiB.
const RESERVE_ORDER: u32 = 4;
/// Requests up to this many bytes may use the reserve.
const RESERVED_REQUEST: usize = 16 * 1024;

/// The source of frames, once there is one, and the reserve.
pub(crate) struct Supply {
    source: Once<FrameSource>,
    /// First frame of the reserve while it is unused.
    reserve: Mutex<Option<Mfn>>,
    /// The reserve is used up: a hint that spares the idle loop the lock.
    spent: AtomicBool,
}

impl Supply {
    /// Nothing to give yet.
    pub(crate) const fn new() -> Self {
        Self {
            source: Once::new(),
            reserve: Mutex::new(Rank::Frames, None),
            spent: AtomicBool::new(false),
        }
    }

    /// Takes frames from `source` from now on, and sets the reserve aside.
    pub(crate) fn set_source(&self, source: FrameSource) {
        self.source.call_once(|| source);
        self.spent.store(true, Relaxed);
        self.refill();
    }

    /// First frame and log2 number of frames for a heap that lacks `size` bytes with this alignment.
    pub(crate) fn take(&self, size: usize, align: usize) -> Option<(Mfn, u32)> {
        let source = self.source.get()?;
        let need = size.checked_add(align)?.checked_add(PAGE_SIZE)?;
        let frames = need.div_ceil(PAGE_SIZE).next_power_of_two();
        let order = frames.trailing_zeros().max(GROW_ORDER);
        if let Some(first) = source(order) {
            self.refill();
            return Some((first, order));
        }
        if size > RESERVED_REQUEST {
            return None;
        }
        let first = self.reserve.lock().take()?;
        self.spent.store(true, Relaxed);
        Some((first, RESERVE_ORDER))
    }

    /// Sets the reserve aside again, if it was used and there are frames. To be called with no lock held that ranks as
    /// high as the allocator's.
    #[inline]
    pub(crate) fn refill(&self) {
        if self.spent.load(Relaxed) {
            self.refill_now();
        }
    }

    #[cold]
    fn refill_now(&self) {
        // The allocator's lock ranks with the reserve's, so the frames come first. Whoever sees the mark gone leaves it
        // to the one who took it; so two CPUs never both bring a reserve.
        if !self.spent.swap(false, Relaxed) {
            return;
        }
        match self.source.get().and_then(|source| source(RESERVE_ORDER)) {
            Some(first) => *self.reserve.lock() = Some(first),
            None => self.spent.store(true, Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use core::sync::atomic::AtomicU64;

    use super::*;

    /// A source per test: frames that are left, counted by a static because a source is a plain function.
    macro_rules! source {
        ($left:ident, $function:ident) => {
            static $left: AtomicU64 = AtomicU64::new(0);
            fn $function(order: u32) -> Option<Mfn> {
                let taken = $left.fetch_update(Relaxed, Relaxed, |n| n.checked_sub(1 << order));
                taken.ok().map(Mfn)
            }
        };
    }

    #[test]
    fn the_reserve_serves_small_requests_once_and_comes_back_with_the_memory() {
        source!(LEFT, source);
        let supply = Supply::new();
        assert_eq!(supply.take(100, 8), None, "no source yet");
        LEFT.store(16 + 64, Relaxed);
        supply.set_source(source);
        let order = |size| supply.take(size, 8).map(|(_, order)| order);
        assert_eq!(
            order(100),
            Some(6),
            "while there is memory the heap grows by it"
        );
        assert_eq!(
            order(20_000),
            None,
            "large requests leave the reserve alone"
        );
        assert_eq!(order(100), Some(4));
        assert_eq!(order(100), None, "used up");
        supply.refill();
        assert_eq!(order(100), None, "there was nothing to set aside");
        LEFT.store(16, Relaxed);
        supply.refill();
        supply.refill();
        assert_eq!(LEFT.load(Relaxed), 0, "set aside once");
        assert_eq!(order(100), Some(4), "the reserve is there again");
    }

    #[test]
    fn a_heap_that_grows_again_sets_its_reserve_aside_too() {
        source!(LEFT, source);
        LEFT.store(16, Relaxed);
        let supply = Supply::new();
        supply.set_source(source);
        assert_eq!(supply.take(8, 8).map(|(_, order)| order), Some(4));
        LEFT.store(64 + 16, Relaxed);
        assert_eq!(supply.take(8, 8).map(|(_, order)| order), Some(6));
        assert_eq!(LEFT.load(Relaxed), 0);
        assert_eq!(supply.take(8, 8).map(|(_, order)| order), Some(4));
    }

    #[test]
    fn a_size_beyond_the_address_space_is_refused() {
        source!(LEFT, source);
        let supply = Supply::new();
        supply.set_source(source);
        assert_eq!(supply.take(usize::MAX, 8), None);
        assert_eq!(supply.take(isize::MAX as usize, 4096), None);
    }
}
