//! The timer of the local APIC (Intel SDM, volume 3, 11.5.4): one-shot and periodic.
//!
//! It counts at 100 MHz, which guests measure, divided as the guest asks. TSC deadlines are not offered: CPUID hides
//! them, so its MSR is none of this model's. Only the owning vCPU uses it.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use xenolith_hal::Nanos;

/// Nanoseconds of a count with divisor one.
pub const COUNT_NANOS: u64 = 10;
/// A periodic timer does not fire more often: a guest that asks for a period of nanoseconds gets this one instead, and
/// the host's CPU is left for others.
const SHORTEST_PERIOD: Nanos = Nanos::from_micros(50);
const STOPPED: u64 = u64::MAX;

pub(super) struct Timer {
    initial: AtomicU32,
    divide: AtomicU32,
    /// When the count reaches zero next.
    deadline: AtomicU64,
}

impl Timer {
    pub const fn new() -> Self {
        Self {
            initial: AtomicU32::new(0),
            divide: AtomicU32::new(0),
            deadline: AtomicU64::new(STOPPED),
        }
    }

    pub fn reset(&self) {
        self.initial.store(0, Relaxed);
        self.divide.store(0, Relaxed);
        self.deadline.store(STOPPED, Relaxed);
    }

    pub fn initial(&self) -> u32 {
        self.initial.load(Relaxed)
    }

    pub fn divide(&self) -> u32 {
        self.divide.load(Relaxed)
    }

    /// Nanoseconds of one count: bits 0, 1 and 3 of the divide register say 2, 4, ... 128, 1.
    fn count_nanos(&self) -> u64 {
        let divide = self.divide();
        let shift = ((divide & 3 | divide >> 1 & 4) + 1) & 7;
        COUNT_NANOS << shift
    }

    fn period(&self) -> u64 {
        u64::from(self.initial()) * self.count_nanos()
    }

    fn arm(&self, at: u64) {
        self.deadline.store(at.min(STOPPED - 1), Relaxed);
    }

    /// When the count reaches zero next, seen from `now`.
    fn next(&self, now: Nanos, periodic: bool) -> Option<u64> {
        let at = self.deadline.load(Relaxed);
        if at == STOPPED {
            return None;
        }
        if at > now.0 {
            return Some(at);
        }
        let period = self.period();
        (periodic && period != 0).then(|| {
            let behind = (now.0 - at) / period;
            at.saturating_add((behind + 1).saturating_mul(period))
        })
    }

    /// The end of the count that the guest waits for; in the past when [`Timer::expire`] is due.
    pub fn deadline(&self) -> Option<Nanos> {
        let at = self.deadline.load(Relaxed);
        (at != STOPPED).then_some(Nanos(at))
    }

    pub fn current(&self, now: Nanos, periodic: bool) -> u32 {
        self.next(now, periodic).map_or(0, |at| {
            let counts = (at - now.0).div_ceil(self.count_nanos());
            counts.min(self.initial().into()) as u32
        })
    }

    pub fn set_initial(&self, count: u32, now: Nanos) {
        self.initial.store(count, Relaxed);
        if count == 0 {
            self.deadline.store(STOPPED, Relaxed);
        } else {
            self.arm(now.0.saturating_add(self.period()));
        }
    }

    /// Counts go on from where they are, at the new rate.
    pub fn set_divide(&self, value: u32, now: Nanos, periodic: bool) {
        let left = self.current(now, periodic);
        self.divide.store(value & 0b1011, Relaxed);
        if left != 0 {
            let span = u64::from(left) * self.count_nanos();
            self.arm(now.0.saturating_add(span));
        }
    }

    /// The deadline has passed, if it has: true, and the timer is set for the next one.
    pub fn expire(&self, now: Nanos, periodic: bool) -> bool {
        if self.deadline.load(Relaxed) > now.0 {
            return false;
        }
        match self.next(now, periodic) {
            Some(next) if self.period() < SHORTEST_PERIOD.0 => {
                self.arm(next.max(now.plus(SHORTEST_PERIOD).0));
            }
            Some(next) => self.arm(next),
            None => self.deadline.store(STOPPED, Relaxed),
        }
        true
    }
}
