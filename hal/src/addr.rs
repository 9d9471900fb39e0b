//! Address and frame-number types. They are not mixed: a guest frame is not a machine frame, and an address is not a
//! frame number. Frames are 4 KiB on every architecture that the Xen ABI serves.

/// log2 of the frame size in bytes.
pub const PAGE_SHIFT: u32 = 12;
/// Frame size in bytes.
pub const PAGE_SIZE: usize = 1 << PAGE_SHIFT;
/// The bits of an address that lie inside a frame.
pub const PAGE_MASK: u64 = PAGE_SIZE as u64 - 1;

/// log2 of a number of frames.
pub type Order = u32;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident, $fmt:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        #[repr(transparent)]
        pub struct $name(pub u64);

        impl core::fmt::Debug for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                write!(f, concat!($fmt, "{:#x}"), self.0)
            }
        }
    };
}

number!(
    /// A guest frame number: guest-physical address divided by the page size.
    Gfn, "gfn:"
);
number!(
    /// A machine frame number: host-physical address divided by the page size.
    Mfn, "mfn:"
);
number!(
    /// A guest-physical address in bytes.
    GuestPhys, "gpa:"
);
number!(
    /// A guest-virtual address in bytes.
    GuestVirt, "gva:"
);
number!(
    /// A host-physical address in bytes.
    HostPhys, "hpa:"
);

impl Gfn {
    /// The frame `n` frames further; saturates at the end of the number space.
    #[must_use]
    pub const fn plus(self, n: u64) -> Self {
        Self(self.0.saturating_add(n))
    }

    /// The first byte of the frame; `None` when the address does not fit 64 bits.
    #[must_use]
    pub const fn base(self) -> Option<GuestPhys> {
        if self.0 >> (64 - PAGE_SHIFT) != 0 {
            return None;
        }
        Some(GuestPhys(self.0 << PAGE_SHIFT))
    }
}

impl Mfn {
    /// The frame `n` frames further; saturates at the end of the number space.
    #[must_use]
    pub const fn plus(self, n: u64) -> Self {
        Self(self.0.saturating_add(n))
    }

    /// The first byte of the frame. Machine frames come from the machine's own memory map, so they always fit.
    #[must_use]
    pub const fn base(self) -> HostPhys {
        HostPhys(self.0 << PAGE_SHIFT)
    }
}

impl GuestPhys {
    /// The frame that holds the address.
    #[must_use]
    pub const fn frame(self) -> Gfn {
        Gfn(self.0 >> PAGE_SHIFT)
    }

    /// The address inside its frame.
    #[must_use]
    pub const fn offset(self) -> usize {
        (self.0 & PAGE_MASK) as usize
    }
}

impl HostPhys {
    /// The frame that holds the address.
    #[must_use]
    pub const fn frame(self) -> Mfn {
        Mfn(self.0 >> PAGE_SHIFT)
    }

    /// The address inside its frame.
    #[must_use]
    pub const fn offset(self) -> usize {
        (self.0 & PAGE_MASK) as usize
    }
}

impl GuestVirt {
    /// The address `n` bytes further; wraps, as the guest's own arithmetic would (the access then faults).
    #[must_use]
    pub const fn plus(self, n: u64) -> Self {
        Self(self.0.wrapping_add(n))
    }
}
