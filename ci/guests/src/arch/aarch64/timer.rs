//! The virtual generic timer. Arm ARM D12.

use core::arch::asm;
use core::sync::atomic::{AtomicU32, Ordering};

use super::gic;

static LINE: AtomicU32 = AtomicU32::new(0);

/// The system counter as this guest sees it.
pub fn now() -> u64 {
    let ticks: u64;
    // SAFETY: reads the counter, not ahead of what comes before.
    unsafe { asm!("isb", "mrs {}, cntvct_el0", out(reg) ticks) };
    ticks
}

/// Executes so many turns of a loop of two instructions.
pub fn turns(turns: u64) {
    // SAFETY: counts down.
    unsafe {
        asm!("2: subs {0}, {0}, #1", "b.ne 2b", inout(reg) turns => _, options(nomem, nostack))
    };
}

/// Counter frequency.
pub fn ticks_per_second() -> u64 {
    let hertz: u64;
    // SAFETY: reads a constant register.
    unsafe { asm!("mrs {}, cntfrq_el0", out(reg) hertz) };
    hertz
}

/// The timer's interrupt line.
pub fn timer_line() -> u32 {
    LINE.load(Ordering::Relaxed)
}

/// Has `handler` called on this CPU when its timer fires.
pub fn on_timer(handler: fn(u32)) {
    gic::on_line(timer_line(), handler);
}

/// Arms this CPU's timer for `at` (counter ticks).
pub fn timer_at(at: u64) {
    // SAFETY: the virtual timer's compare value and control: enabled, not masked.
    unsafe {
        asm!("msr cntv_cval_el0, {}", "msr cntv_ctl_el0, {}", "isb", in(reg) at, in(reg) 1u64)
    };
}

/// Disarms this CPU's timer.
pub fn timer_off() {
    // SAFETY: the virtual timer's control.
    unsafe { asm!("msr cntv_ctl_el0, xzr", "isb") };
}

pub(super) fn init(fdt: &fdt::Fdt) {
    let line = fdt
        .find_compatible(&["arm,armv8-timer", "arm,armv7-timer"])
        .and_then(|node| super::interrupt(&node, 2))
        .unwrap_or(27);
    LINE.store(line, Ordering::Relaxed);
}
