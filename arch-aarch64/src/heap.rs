//! The hypervisor's heap: a library allocator over pieces of memory that grow by frames.
//!
//! Objects are few and small: what a guest can make grow is counted to its domain by the core before it comes here.
//! A reserve stays for the moment between the core's check that memory is there and its use: when the machine has no
//! frame left, small requests are served from it, so that the core's one-object allocations do not fail after the check.

use core::alloc::{GlobalAlloc, Layout};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use spin::Once;
use talc::{OomHandler, Span, Talc};
use xenolith_hal::{
    HeapUse, Mfn, PAGE_SIZE,
    sync::{Mutex, Rank},
};

use crate::mm::direct;

const EARLY: usize = 192 * 1024;
/// log2 frames by which the heap grows at least: 256 KiB.
const GROW_ORDER: u32 = 6;

#[repr(align(4096))]
struct Arena(#[allow(dead_code, reason = "only its address is used")] [u8; EARLY]);

static mut ARENA: Arena = Arena([0; EARLY]);

/// Gives `1 << order` frames, or nothing.
pub type FrameSource = fn(u32) -> Option<Mfn>;

static SOURCE: Once<FrameSource> = Once::new();

/// log2 frames of the reserve: 64 KiB.
const RESERVE_ORDER: u32 = 4;
/// Requests up to this many bytes may use the reserve.
const RESERVED_REQUEST: usize = 16 * 1024;

/// First frame of the reserve while it is unused.
static RESERVE: Mutex<Option<Mfn>> = Mutex::new(Rank::Frames, None);

/// Lets the heap grow from now on, and sets the reserve aside.
pub fn set_source(source: FrameSource) {
    SOURCE.call_once(|| source);
    let reserve = source(RESERVE_ORDER);
    *RESERVE.lock() = reserve;
}

struct Grow;

impl OomHandler for Grow {
    fn handle_oom(talc: &mut Talc<Self>, layout: Layout) -> Result<(), ()> {
        let source = SOURCE.get().ok_or(())?;
        let need = layout.size().checked_add(layout.align() + 4096).ok_or(())?;
        let frames = need.div_ceil(PAGE_SIZE).next_power_of_two();
        let order = frames.trailing_zeros().max(GROW_ORDER);
        let (first, order) = match source(order) {
            Some(first) => (first, order),
            None if layout.size() <= RESERVED_REQUEST => {
                (RESERVE.lock().take().ok_or(())?, RESERVE_ORDER)
            }
            None => return Err(()),
        };
        let base = direct::address(first.base()) as *mut u8;
        // SAFETY: the frames were just taken for the heap, lie in the direct map and are nobody else's.
        unsafe { talc.claim(Span::from_base_size(base, PAGE_SIZE << order)) }.map(|_| ())
    }
}

/// Bytes of memory that the heap has, and those of them that are free.
static CLAIMED: AtomicU64 = AtomicU64::new(0);
static FREE: AtomicU64 = AtomicU64::new(0);

/// How much of the heap is used.
pub fn in_use() -> HeapUse {
    let (claimed, free) = (CLAIMED.load(Relaxed), FREE.load(Relaxed));
    HeapUse {
        used: claimed.saturating_sub(free),
        free,
    }
}

/// Keeps the figures where they can be read without the heap's lock.
fn note(talc: &Talc<Grow>) {
    let counters = talc.get_counters();
    CLAIMED.store(counters.claimed_bytes as u64, Relaxed);
    FREE.store(counters.available_bytes as u64, Relaxed);
}

/// The global allocator.
pub struct Heap(Mutex<Option<Talc<Grow>>>);

// SAFETY: the allocator is only reached under its lock; its pointers are to memory that it owns.
unsafe impl Sync for Heap {}

impl Heap {
    /// An allocator that starts with its early arena at the first allocation.
    pub const fn new() -> Self {
        Self(Mutex::new(Rank::Heap, None))
    }
}

impl Default for Heap {
    fn default() -> Self {
        Self::new()
    }
}

// SAFETY: memory comes from `Talc`, which keeps `GlobalAlloc`'s contract; the lock makes calls exclusive.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let mut heap = self.0.lock();
        let talc = heap.get_or_insert_with(|| {
            let mut talc = Talc::new(Grow);
            // SAFETY: the arena is used for nothing else, and this runs once.
            let _ = unsafe {
                talc.claim(Span::from_base_size(
                    core::ptr::addr_of_mut!(ARENA).cast(),
                    EARLY,
                ))
            };
            talc
        });
        // SAFETY: the caller gives a layout of non-zero size.
        let memory = unsafe { talc.malloc(layout) };
        note(talc);
        memory.map_or(core::ptr::null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        if let (Some(talc), Some(ptr)) = (self.0.lock().as_mut(), NonNull::new(ptr)) {
            // SAFETY: the caller gives back what `alloc` gave, with the same layout.
            unsafe { talc.free(ptr, layout) };
            note(talc);
        }
    }
}
