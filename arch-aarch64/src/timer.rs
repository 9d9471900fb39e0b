//! Time: the generic timer (Arm ARM DDI 0487, D11). The counter gives time; CNTHP, the EL2 physical timer, gives the
//! hypervisor's deadlines; the virtual timer belongs to the guest that is loaded.

use xenolith_arch_common::Clock;
use xenolith_hal::Nanos;

use crate::cpu::{
    percpu::PerCpu,
    regs::{isb, read, write},
};

static CLOCK: Clock = Clock::new();

/// Reads the counter's frequency; a tree's `clock-frequency` overrides what the register says when that is zero. Time starts
/// now.
pub fn init(fallback_hz: u32) -> u32 {
    let hz = match read!("cntfrq_el0") as u32 {
        0 => fallback_hz.max(1),
        hz => hz,
    };
    CLOCK.start(hz, ticks());
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

/// Time since start-up.
#[inline]
pub fn now() -> Nanos {
    CLOCK.now(ticks())
}

/// The point in time at which the counter has a value, rounded up.
pub fn nanos_at(ticks: u64) -> Nanos {
    CLOCK.nanos_at(ticks)
}

/// Programs this CPU's deadline.
pub fn set(deadline: Option<Nanos>) {
    let wanted = deadline.map_or(u64::MAX, |at| CLOCK.ticks_at(at));
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
