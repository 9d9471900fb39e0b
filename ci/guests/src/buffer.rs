//! Memory that the hypervisor or another CPU may write behind the compiler's back, and a pool of
//! whole pages for cases to share, grant, balloon out or map over.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicUsize, Ordering};

use crate::arch;

/// Bytes of a page, and of a frame.
pub const PAGE: u64 = 4096;
const POOL_PAGES: usize = 512;

#[repr(C, align(4096))]
struct Pool(UnsafeCell<[[u8; PAGE as usize]; POOL_PAGES]>);

// SAFETY: the pool is reached only by address, with volatile accesses.
unsafe impl Sync for Pool {}

static POOL: Pool = Pool(UnsafeCell::new([[0; PAGE as usize]; POOL_PAGES]));
static NEXT: AtomicUsize = AtomicUsize::new(0);

/// A page of guest memory that a case has for itself.
#[derive(Clone, Copy)]
pub struct Page(u64);

impl Page {
    /// Takes a page from the pool; pages are never given back.
    pub fn take() -> Self {
        Self::take_many(1)
    }

    /// Takes `count` contiguous pages and gives the first.
    pub fn take_many(count: usize) -> Self {
        let index = NEXT.fetch_add(count, Ordering::Relaxed);
        assert!(index + count <= POOL_PAGES, "the page pool is empty");
        Self(POOL.0.get() as u64 + index as u64 * PAGE)
    }

    /// The page at a (mapped) address.
    pub fn at(address: u64) -> Self {
        Self(address & !(PAGE - 1))
    }

    /// The `index`th page after this one.
    pub fn after(self, index: u64) -> Self {
        Self(self.0 + index * PAGE)
    }

    /// Its address; where frames are translated, virtual and guest-physical alike.
    pub fn address(self) -> u64 {
        self.0
    }

    /// Its guest frame number.
    pub fn frame(self) -> u64 {
        arch::frame_of(self.0)
    }

    /// Reads a value at a byte offset.
    pub fn read<T: Copy>(self, offset: u64) -> T {
        assert!(offset + size_of::<T>() as u64 <= PAGE);
        // SAFETY: inside a page that is mapped and never a Rust object.
        unsafe { ((self.0 + offset) as *const T).read_volatile() }
    }

    /// Writes a value at a byte offset.
    pub fn write<T: Copy>(self, offset: u64, value: T) {
        assert!(offset + size_of::<T>() as u64 <= PAGE);
        // SAFETY: inside a page that is mapped and never a Rust object.
        unsafe { ((self.0 + offset) as *mut T).write_volatile(value) }
    }

    /// Fills the page with one byte.
    pub fn fill(self, byte: u8) {
        for offset in 0..PAGE / 8 {
            self.write(offset * 8, u64::from_ne_bytes([byte; 8]));
        }
    }
}
