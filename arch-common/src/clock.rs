//! A counter's ticks as time since start-up, and back. Multiplications only: a deadline is set often.
//!
//! The two directions agree: at the tick that [`Clock::ticks_at`] gives for a time, [`Clock::now`] has come to it, whatever the
//! rate is and however long the machine runs. A deadline is so never early, and at most a few ticks late.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use xenolith_hal::Nanos;

/// Bits behind the point of the nanoseconds in a tick.
const TICK_SHIFT: u32 = 32;
/// Bits behind the point of the ticks in a nanosecond: counters of up to 16 GHz fit.
const NANO_SHIFT: u32 = 60;

/// A counter that never stops; one for the machine.
pub struct Clock {
    /// What it was at start-up.
    boot: AtomicU64,
    /// Fixed point numbers.
    nanos_per_tick: AtomicU64,
    ticks_per_nano: AtomicU64,
}

impl Clock {
    /// One that [`Clock::start`] has yet to start.
    #[expect(
        clippy::new_without_default,
        reason = "one that was not started is of no use but as a static"
    )]
    #[must_use]
    pub const fn new() -> Self {
        Self {
            boot: AtomicU64::new(0),
            nanos_per_tick: AtomicU64::new(0),
            ticks_per_nano: AtomicU64::new(0),
        }
    }

    /// Time starts at a value of the counter, which ticks `hz` times a second (not 0).
    pub fn start(&self, hz: u32, ticks: u64) {
        let hz = u64::from(hz.max(1));
        let nanos_per_tick = (1_000_000_000 << TICK_SHIFT) / hz;
        self.ticks_per_nano
            .store(reciprocal(nanos_per_tick), Relaxed);
        self.nanos_per_tick.store(nanos_per_tick, Relaxed);
        self.boot.store(ticks, Relaxed);
    }

    /// The counter at start-up.
    #[inline]
    #[must_use]
    pub fn boot_ticks(&self) -> u64 {
        self.boot.load(Relaxed)
    }

    /// The time when the counter has a value, not before start-up and less than 584 years after it.
    #[inline(always)]
    #[must_use]
    pub fn now(&self, ticks: u64) -> Nanos {
        let since = ticks.wrapping_sub(self.boot_ticks());
        let factor = self.nanos_per_tick.load(Relaxed);
        Nanos((product(since, factor) >> TICK_SHIFT) as u64)
    }

    /// The counter when a time has come. What is beyond all counting is the end of it.
    #[inline(always)]
    #[must_use]
    pub fn ticks_at(&self, at: Nanos) -> u64 {
        let ticks = product(at.0, self.ticks_per_nano.load(Relaxed)) >> NANO_SHIFT;
        let ticks = u64::try_from(ticks).unwrap_or(u64::MAX);
        // One more: the product is rounded down.
        ticks.saturating_add(self.boot_ticks().wrapping_add(1))
    }

    /// The time after a value of the counter has come, any value: a guest may have made it.
    #[inline]
    #[must_use]
    pub fn nanos_at(&self, ticks: u64) -> Nanos {
        let since = ticks.saturating_sub(self.boot_ticks());
        let nanos = product(since, self.nanos_per_tick.load(Relaxed)) >> TICK_SHIFT;
        Nanos(u64::try_from(nanos).unwrap_or(u64::MAX).saturating_add(1))
    }
}

/// The ticks in a nanosecond, of the nanoseconds in a tick (not 0) and not of the rate: what was rounded there is so rounded
/// here too. Rounded up itself. Bit by bit, for a library's division of 128 bits is larger than all else here.
fn reciprocal(nanos_per_tick: u64) -> u64 {
    const ONE: u64 = 1 << TICK_SHIFT;
    let (mut ticks, mut rest) = (ONE / nanos_per_tick, ONE % nanos_per_tick);
    for _ in 0..NANO_SHIFT {
        // Less than 2^63: a tick is a second at most.
        rest <<= 1;
        ticks = ticks << 1 | u64::from(rest >= nanos_per_tick);
        if rest >= nanos_per_tick {
            rest -= nanos_per_tick;
        }
    }
    ticks + 1
}

#[inline(always)]
fn product(value: u64, factor: u64) -> u128 {
    u128::from(value) * u128::from(factor)
}

#[cfg(test)]
mod tests;
