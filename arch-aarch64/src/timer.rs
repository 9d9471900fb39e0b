//! Time: the generic timer (Arm ARM DDI 0487, D11). The counter gives time; CNTHP, the EL2 physical timer, gives the
//! hypervisor's deadlines; the virtual timer belongs to the guest that is loaded.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use xenolith_hal::Nanos;

use crate::cpu::{
    percpu::PerCpu,
    regs::{isb, read, write},
};

/// Counter value at start-up and the factors between ticks and nanoseconds, as 32.32 fixed point numbers.
static BOOT_TICKS: AtomicU64 = AtomicU64::new(0);
static NANOS_PER_TICK: AtomicU64 = AtomicU64::new(0);
static TICKS_PER_NANO: AtomicU64 = AtomicU64::new(0);

fn scale(value: u64, factor: u64) -> u64 {
    ((u128::from(value) * u128::from(factor)) >> 32) as u64
}

/// Reads the counter's frequency; a tree's `clock-frequency` overrides what the register says when that is zero.
pub fn init(fallback_hz: u64) -> u64 {
    let hz = match read!("cntfrq_el0") & 0xffff_ffff {
        0 => fallback_hz.max(1),
        hz => hz,
    };
    NANOS_PER_TICK.store((1_000_000_000u64 << 32) / hz, Relaxed);
    TICKS_PER_NANO.store(((u128::from(hz) << 32) / 1_000_000_000) as u64, Relaxed);
    BOOT_TICKS.store(ticks(), Relaxed);
    hz
}

/// Per-CPU: guests may read the counters; their physical timer traps.
pub fn init_cpu() {
    write!("cnthctl_el2", 1);
    write!("cntvoff_el2", 0);
    write!("cntv_ctl_el0", 0);
    write!("cnthp_ctl_el2", 0);
    isb();
}

/// The counter now.
#[inline(always)]
pub fn ticks() -> u64 {
    isb();
    read!("cntpct_el0")
}

/// Counter value at start-up.
pub fn boot_ticks() -> u64 {
    BOOT_TICKS.load(Relaxed)
}

/// Time since start-up.
#[inline]
pub fn now() -> Nanos {
    Nanos(scale(
        ticks().wrapping_sub(boot_ticks()),
        NANOS_PER_TICK.load(Relaxed),
    ))
}

/// The counter value at which a point in time is reached, rounded up.
pub fn ticks_at(at: Nanos) -> u64 {
    boot_ticks().saturating_add(scale(at.0, TICKS_PER_NANO.load(Relaxed)).saturating_add(1))
}

/// The point in time at which a counter value is reached, rounded up.
pub fn nanos_at(ticks: u64) -> Nanos {
    Nanos(
        scale(
            ticks.saturating_sub(boot_ticks()),
            NANOS_PER_TICK.load(Relaxed),
        )
        .saturating_add(1),
    )
}

/// Programs this CPU's deadline.
pub fn set(deadline: Option<Nanos>) {
    let wanted = deadline.map_or(u64::MAX, ticks_at);
    if PerCpu::try_current().is_some_and(|cpu| cpu.timer.replace(wanted) == wanted) {
        return;
    }
    if wanted == u64::MAX {
        write!("cnthp_ctl_el2", 0);
    } else {
        write!("cnthp_cval_el2", wanted);
        write!("cnthp_ctl_el2", 1);
    }
}

/// The hypervisor's timer interrupt came: silence it until the next deadline is set.
pub fn fired() {
    write!("cnthp_ctl_el2", 0);
    if let Some(cpu) = PerCpu::try_current() {
        cpu.timer.set(u64::MAX);
    }
}
