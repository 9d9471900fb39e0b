//! Guest pointers inside wire structs.
//!
//! Headers: `XEN_GUEST_HANDLE` in `arch-arm.h` and `arch-x86/xen.h`. On both 64-bit ABIs a handle is
//! eight bytes, aligned to eight. It is a number chosen by the guest and is never followed here:
//! only the guest-copy layer of the core turns it into an access, with a check.

use core::fmt;
use core::marker::PhantomData;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A guest's pointer to a `T` or to the first of several.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct GuestHandle<T> {
    address: u64,
    target: PhantomData<T>,
}

impl<T> GuestHandle<T> {
    /// The null handle, which several calls take as "no buffer".
    pub const NULL: Self = Self::new(0);

    /// A handle with this address in the guest.
    #[must_use]
    pub const fn new(address: u64) -> Self {
        Self {
            address,
            target: PhantomData,
        }
    }

    /// The address in the guest: virtual, as the calling vCPU sees it.
    #[must_use]
    pub const fn address(self) -> u64 {
        self.address
    }

    /// Whether the guest passed no buffer.
    #[must_use]
    pub const fn is_null(self) -> bool {
        self.address == 0
    }

    /// The handle of element `index`, or `None` if that address does not exist.
    #[must_use]
    pub const fn element(self, index: u64) -> Option<Self> {
        let Some(bytes) = index.checked_mul(size_of::<T>() as u64) else {
            return None;
        };
        match self.address.checked_add(bytes) {
            Some(address) => Some(Self::new(address)),
            None => None,
        }
    }

    /// The same address, seen as a pointer to `U`.
    #[must_use]
    pub const fn cast<U>(self) -> GuestHandle<U> {
        GuestHandle::new(self.address)
    }
}

// By hand, because derived forms would ask the same of `T`, which is only named here.
impl<T> Clone for GuestHandle<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for GuestHandle<T> {}

impl<T> Default for GuestHandle<T> {
    fn default() -> Self {
        Self::NULL
    }
}

impl<T> PartialEq for GuestHandle<T> {
    fn eq(&self, other: &Self) -> bool {
        self.address == other.address
    }
}

impl<T> Eq for GuestHandle<T> {}

impl<T> fmt::Debug for GuestHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GuestHandle({:#x})", self.address)
    }
}

#[cfg(test)]
mod tests {
    use super::GuestHandle;

    #[test]
    fn elements_lie_one_size_apart() {
        let handle = GuestHandle::<u64>::new(0x1000);
        assert_eq!(handle.element(3), Some(GuestHandle::new(0x1018)));
    }

    #[test]
    fn an_element_beyond_the_address_space_does_not_exist() {
        assert_eq!(GuestHandle::<u64>::new(u64::MAX - 8).element(2), None);
        assert_eq!(GuestHandle::<u64>::new(0).element(u64::MAX), None);
    }
}
