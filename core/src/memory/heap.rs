//! Heap allocations on the control path that must fail as a value.
//!
//! What a guest or a tool can make grow uses `try_reserve`. The few shared or boxed objects of the control path (a
//! domain, its list of vCPUs) go through here. `Arc` has no fallible constructor on stable Rust: [`try_arc`] first
//! reserves and gives back as much as it is going to take. Another CPU can take that in between; for this window the
//! image's heap keeps an emergency reserve that only infallible allocations draw on.

use alloc::{boxed::Box, sync::Arc, vec::Vec};

use xenolith_hal::NoMemory;

/// Whether the heap has room for an `Arc<T>` now. For values that cannot be given back once they are made.
pub fn room_for_arc<T>() -> Result<(), NoMemory> {
    let counts = 2 * size_of::<usize>();
    let words = (size_of::<T>() + counts).div_ceil(size_of::<u64>());
    let mut probe = Vec::<u64>::new();
    probe.try_reserve_exact(words).map_err(|_| NoMemory)
}

/// Shared ownership of `value`, or a failure while the heap is all but empty.
pub fn try_arc<T>(value: T) -> Result<Arc<T>, NoMemory> {
    room_for_arc::<T>()?;
    Ok(Arc::new(value))
}

/// The items as a boxed slice. The iterator must tell its exact length.
pub fn try_boxed_slice<T>(items: impl ExactSizeIterator<Item = T>) -> Result<Box<[T]>, NoMemory> {
    let mut list = Vec::new();
    let len = items.len();
    list.try_reserve_exact(len).map_err(|_| NoMemory)?;
    // `take` keeps an iterator that lies about its length from growing the list.
    list.extend(items.take(len));
    Ok(list.into_boxed_slice())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_arrive_as_given() {
        assert_eq!(try_arc([7_u8; 300]).map(|a| a[299]), Ok(7));
        let items = [1, 2, 3].into_iter();
        assert_eq!(try_boxed_slice(items).as_deref(), Ok(&[1, 2, 3][..]));
    }

    #[test]
    fn an_impossible_size_is_an_error() {
        struct Endless;
        impl Iterator for Endless {
            type Item = u64;
            fn next(&mut self) -> Option<u64> {
                None
            }
        }
        impl ExactSizeIterator for Endless {
            fn len(&self) -> usize {
                usize::MAX / 8
            }
        }
        assert_eq!(try_boxed_slice(Endless), Err(NoMemory));
    }
}
