//! Time: the `time` counter gives it. Deadlines of the hypervisor and of guests are the CPU's own business where it has Sstc,
//! else the firmware's and, for guests, the hypervisor's.

use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

use xenolith_arch_common::Clock;
use xenolith_hal::Nanos;

use crate::{
    cpu::{
        percpu::PerCpu,
        regs::{exists, read, write},
    },
    sbi,
};

static CLOCK: Clock = Clock::new();
/// All CPUs have `stimecmp`.
static OWN_COMPARE: AtomicBool = AtomicBool::new(false);
/// Guests have it too.
static GUESTS_COMPARE: AtomicBool = AtomicBool::new(false);

/// `henvcfg.STCE`: VS-mode has `stimecmp`.
const STCE: u64 = 1 << 63;
/// `hcounteren.TM`: guests read `time`.
const TM: u64 = 1 << 1;

/// Time starts now; the counter ticks `hz` times a second (not 0). On the boot CPU, whose own timer registers are used where the
/// others are `alike` in that.
pub fn init(hz: u32, alike: bool) {
    CLOCK.start(hz, ticks());
    let own = alike && exists!("stimecmp");
    OWN_COMPARE.store(own, Relaxed);
    GUESTS_COMPARE.store(own && give_compare(), Relaxed);
}

/// Gives guests `stimecmp`; whether they have it now.
fn give_compare() -> bool {
    if !exists!("henvcfg") {
        return false;
    }
    // Nothing else that firmware may have left on: guests are not told of it.
    write!("henvcfg", STCE);
    read!("henvcfg") & STCE != 0
}

/// Whether this CPU has the timer registers that the boot CPU uses, and can give guests theirs.
pub fn suits() -> bool {
    let own = OWN_COMPARE.load(Relaxed);
    !own || exists!("stimecmp") && (!is_guests_own() || give_compare())
}

/// Per CPU: guests read the clock, and have a timer of their own where the boot CPU had one to give.
pub fn init_cpu() {
    write!("hcounteren", TM);
    if is_guests_own() {
        give_compare();
        write!("vstimecmp", u64::MAX);
    } else if exists!("henvcfg") {
        write!("henvcfg", 0);
    }
}

/// Whether the CPU keeps a guest's timer itself.
#[inline]
pub fn is_guests_own() -> bool {
    GUESTS_COMPARE.load(Relaxed)
}

/// The counter now.
#[inline(always)]
pub fn ticks() -> u64 {
    read!("time")
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

/// Programs this hart's timer.
pub fn set(deadline: Option<Nanos>) {
    let ticks = deadline.map_or(u64::MAX, |at| CLOCK.ticks_at(at));
    if PerCpu::try_current().is_some_and(|cpu| cpu.timer.replace(ticks) == ticks) {
        return;
    }
    compare(ticks);
}

fn compare(ticks: u64) {
    if OWN_COMPARE.load(Relaxed) {
        write!("stimecmp", ticks);
    } else {
        sbi::set_timer(ticks);
    }
}

/// The hypervisor's timer interrupt came: silence it until the next deadline is set.
pub fn fired() {
    compare(u64::MAX);
    if let Some(cpu) = PerCpu::try_current() {
        cpu.timer.set(u64::MAX);
    }
}
