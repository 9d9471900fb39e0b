//! The hypervisor's heap: a library allocator over pieces of memory that grow by frames.
//!
//! Objects are few and small: what a guest can make grow is counted to its domain by the core before it comes here.
//! When the machine has no frame left, small requests are served from a reserve ([`crate::supply`]). Large objects, which
//! only a library that unpacks a kernel makes, can be served from memory that is lent for the time ([`with_room`]): the heap
//! does not give back what it once has.

use core::alloc::{GlobalAlloc, Layout};
use core::marker::PhantomData;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use talc::{OomHandler, Span, Talc};
use xenolith_hal::{
    HeapUse, HostPhys, PAGE_SIZE,
    sync::{Mutex, Rank},
};

use crate::{
    Direct, Paging,
    lent::Lent,
    supply::{FrameSource, Supply},
};

const EARLY: usize = 192 * 1024;

#[repr(align(4096))]
struct Arena(#[allow(dead_code, reason = "only its address is used")] [u8; EARLY]);

static mut ARENA: Arena = Arena([0; EARLY]);

static SUPPLY: Supply = Supply::new();

static LENT: Mutex<Lent> = Mutex::new(Rank::Heap, Lent::new());

/// Does `work` while large objects have their place in `room`. None of them may outlive it.
pub fn with_room<R>(room: &'static mut [u8], work: impl FnOnce() -> R) -> R {
    let place = room.as_mut_ptr_range();
    LENT.lock().begin(place.start as usize..place.end as usize);
    let result = work();
    assert!(LENT.lock().end(), "an object outlives the room of its work");
    result
}

/// Lets the heap grow from now on, and sets the reserve aside.
pub fn set_source(source: FrameSource) {
    SUPPLY.set_source(source);
}

/// Sets the reserve aside again where it was used: for a CPU that has nothing to do and holds no lock.
#[inline]
pub fn refill_reserve() {
    SUPPLY.refill();
}

/// Where all RAM is mapped.
pub trait DirectMap {
    /// The virtual address of a physical one.
    fn address(pa: HostPhys) -> u64;
}

impl<P: Paging> DirectMap for P {
    fn address(pa: HostPhys) -> u64 {
        Direct::<P>::address(pa)
    }
}

struct Grow<P>(PhantomData<P>);

impl<P: DirectMap> OomHandler for Grow<P> {
    fn handle_oom(talc: &mut Talc<Self>, layout: Layout) -> Result<(), ()> {
        let (first, order) = SUPPLY.take(layout.size(), layout.align()).ok_or(())?;
        let base = P::address(first.base()) as *mut u8;
        // SAFETY: the frames were just taken for the heap, lie in the direct map and are nobody else's.
        unsafe { talc.claim(Span::from_base_size(base, PAGE_SIZE << order)) }.map(|_| ())
    }
}

/// Bytes of memory that the heap has, and those of them that are free.
static CLAIMED: AtomicU64 = AtomicU64::new(0);
static FREE: AtomicU64 = AtomicU64::new(0);

/// How much of the heap is used.
pub fn heap_use() -> HeapUse {
    let (claimed, free) = (CLAIMED.load(Relaxed), FREE.load(Relaxed));
    HeapUse {
        used: claimed.saturating_sub(free),
        free,
    }
}

/// Keeps the figures where they can be read without the heap's lock.
fn note<P: DirectMap>(talc: &Talc<Grow<P>>) {
    let counters = talc.get_counters();
    CLAIMED.store(counters.claimed_bytes as u64, Relaxed);
    FREE.store(counters.available_bytes as u64, Relaxed);
}

/// The global allocator.
pub struct Heap<P: DirectMap>(Mutex<Option<Talc<Grow<P>>>>);

// SAFETY: the allocator is only reached under its lock; its pointers are to memory that it owns.
unsafe impl<P: DirectMap> Sync for Heap<P> {}

impl<P: DirectMap> Heap<P> {
    /// An allocator that starts with its early arena at the first allocation.
    pub const fn new() -> Self {
        Self(Mutex::new(Rank::Heap, None))
    }
}

impl<P: DirectMap> Default for Heap<P> {
    fn default() -> Self {
        Self::new()
    }
}

// SAFETY: memory comes from `Talc`, which keeps `GlobalAlloc`'s contract, or from room that was lent, of which `Lent` gives no
// byte twice; the locks make calls exclusive. An address tells which it came from.
unsafe impl<P: DirectMap> GlobalAlloc for Heap<P> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if Lent::serves(layout)
            && let Some(at) = LENT.lock().take(layout)
        {
            return at as *mut u8;
        }
        let mut heap = self.0.lock();
        let talc = heap.get_or_insert_with(|| {
            let mut talc = Talc::new(Grow(PhantomData));
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
        if Lent::serves(layout) && LENT.lock().give_back(ptr as usize) {
            return;
        }
        if let (Some(talc), Some(ptr)) = (self.0.lock().as_mut(), NonNull::new(ptr)) {
            // SAFETY: the caller gives back what `alloc` gave, with the same layout.
            unsafe { talc.free(ptr, layout) };
            note(talc);
        }
    }
}
