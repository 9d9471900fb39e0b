//! Time: the `time` counter gives it, the firmware's timer gives the hypervisor's deadlines.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use xenolith_hal::Nanos;

use crate::{cpu::regs::read, sbi};

static BOOT_TICKS: AtomicU64 = AtomicU64::new(0);
/// Factors between ticks and nanoseconds, as 32.32 fixed point numbers.
static NANOS_PER_TICK: AtomicU64 = AtomicU64::new(0);
static TICKS_PER_NANO: AtomicU64 = AtomicU64::new(0);

fn scale(value: u64, factor: u64) -> u64 {
    ((u128::from(value) * u128::from(factor)) >> 32) as u64
}

/// Time starts now; the counter ticks `hz` times a second (not 0).
pub fn init(hz: u64) {
    NANOS_PER_TICK.store((1_000_000_000u64 << 32) / hz, Relaxed);
    TICKS_PER_NANO.store(((u128::from(hz) << 32) / 1_000_000_000) as u64, Relaxed);
    BOOT_TICKS.store(read!("time"), Relaxed);
}

/// Time since start-up.
#[inline]
pub fn now() -> Nanos {
    let ticks = read!("time").wrapping_sub(BOOT_TICKS.load(Relaxed));
    Nanos(scale(ticks, NANOS_PER_TICK.load(Relaxed)))
}

/// Programs this hart's timer.
pub fn set(deadline: Option<Nanos>) {
    let ticks = deadline.map_or(u64::MAX, |at| {
        let ticks = scale(at.0, TICKS_PER_NANO.load(Relaxed));
        BOOT_TICKS
            .load(Relaxed)
            .saturating_add(ticks)
            .saturating_add(1)
    });
    sbi::set_timer(ticks);
}
