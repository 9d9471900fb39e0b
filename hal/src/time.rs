//! Time in nanoseconds since the machine started.

/// Nanoseconds, as a point in time since the machine started or as a span; 64 bits last 584 years.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(transparent)]
pub struct Nanos(pub u64);

impl Nanos {
    /// The end of time: later than every deadline that is meant.
    pub const MAX: Self = Self(u64::MAX);

    /// A span of milliseconds.
    #[must_use]
    pub const fn from_millis(ms: u64) -> Self {
        Self(ms.saturating_mul(1_000_000))
    }

    /// A span of microseconds.
    #[must_use]
    pub const fn from_micros(us: u64) -> Self {
        Self(us.saturating_mul(1_000))
    }

    /// This point plus a span; stays at [`Nanos::MAX`] on overflow.
    #[must_use]
    pub const fn plus(self, span: Self) -> Self {
        Self(self.0.saturating_add(span.0))
    }

    /// The span since an earlier point; zero when `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Self {
        Self(self.0.saturating_sub(earlier.0))
    }
}

/// One of the timers that an architecture may set per vCPU through the core; it numbers them as it likes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArchTimer {
    /// The first.
    A,
    /// The second.
    B,
}
