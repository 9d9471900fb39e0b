//! Time by the TSC, and the vCPU's one-shot timer (`VCPUOP_set_singleshot_timer`), whose VIRQ is an event.

use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};

use super::cpu::{cpu_index, this_cpu, vcpu_call, vcpu_op};
use super::{read8, read32, read64};
use crate::xen::{event, sched, shared};

static HERTZ: AtomicU64 = AtomicU64::new(0);
static HANDLER: AtomicUsize = AtomicUsize::new(0);

/// The TSC.
pub fn now() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reads the counter, not ahead of what comes before.
    unsafe {
        core::arch::asm!("lfence", "rdtsc", out("eax") low, out("edx") high, options(nomem, nostack))
    };
    u64::from(high) << 32 | u64::from(low)
}

/// Executes so many turns of a loop of two instructions.
pub fn turns(turns: u64) {
    // SAFETY: counts down.
    unsafe {
        core::arch::asm!("2: dec {}", "jnz 2b", inout(reg) turns => _, options(nomem, nostack))
    };
}

/// TSC frequency.
pub fn ticks_per_second() -> u64 {
    HERTZ.load(Ordering::Relaxed)
}

/// `vcpu_time_info`: TSC and system time (ns) at its last update, multiplier and shift.
fn time_info() -> (u64, u64, u32, i8) {
    let at = shared::vcpu_info(cpu_index()) + 32;
    loop {
        let version = read32(at);
        fence(Ordering::SeqCst);
        let info = (
            read64(at + 8),
            read64(at + 16),
            read32(at + 24),
            read8(at + 28) as i8,
        );
        fence(Ordering::SeqCst);
        if version & 1 == 0 && read32(at) == version {
            return info;
        }
    }
}

/// System time (ns) at a TSC value.
pub fn system_time_at(tsc: u64) -> u64 {
    let (stamp, nanoseconds, multiplier, shift) = time_info();
    let ticks = i128::from(tsc) - i128::from(stamp);
    let shifted = if shift >= 0 {
        ticks << shift
    } else {
        ticks >> -shift
    };
    let passed = (shifted * i128::from(multiplier)) >> 32;
    (i128::from(nanoseconds) + passed).max(1) as u64
}

pub(super) fn init() {
    let (_, _, multiplier, shift) = time_info();
    if multiplier == 0 {
        panic!("the hypervisor does not tell the TSC's frequency");
    }
    let hertz = (1_000_000_000u128 << 32) / u128::from(multiplier);
    let hertz = if shift >= 0 {
        hertz >> shift
    } else {
        hertz << -shift
    };
    HERTZ.store(hertz as u64, Ordering::Relaxed);
}

/// Has `handler` called on this CPU when its timer fires.
pub fn on_timer(handler: fn(u32)) {
    HANDLER.store(handler as usize, Ordering::SeqCst);
    let own = this_cpu();
    if own.timer_port.load(Ordering::SeqCst) != 0 {
        return;
    }
    match event::bind_virq(event::virq::TIMER, cpu_index() as u32) {
        Ok(port) => {
            shared::clear_pending(port);
            shared::clear_mask(port);
            own.timer_port.store(port, Ordering::SeqCst);
        }
        Err(errno) => panic!("the timer's port: {errno}"),
    }
}

/// Gives the timer's port back.
pub fn timer_release() {
    let port = this_cpu().timer_port.swap(0, Ordering::SeqCst);
    if port != 0 {
        event::close(port);
    }
}

pub(super) fn fired() {
    let deadline = this_cpu().deadline.load(Ordering::SeqCst);
    // Another's use of the timer's signal.
    if deadline == 0 {
        return;
    }
    if now() < deadline {
        timer_at(deadline);
        return;
    }
    // SAFETY: only `on_timer` stores here, and it stores a `fn(u32)`.
    let handler: fn(u32) = unsafe { core::mem::transmute(HANDLER.load(Ordering::SeqCst)) };
    handler(0);
}

/// Arms this CPU's timer for `at` (TSC).
pub fn timer_at(at: u64) {
    this_cpu().deadline.store(at.max(1), Ordering::SeqCst);
    let mut argument = [system_time_at(at), 0];
    vcpu_call(
        vcpu_op::SET_SINGLESHOT,
        cpu_index(),
        argument.as_mut_ptr() as u64,
    );
}

/// Disarms this CPU's timer.
pub fn timer_off() {
    this_cpu().deadline.store(0, Ordering::SeqCst);
    vcpu_call(vcpu_op::STOP_SINGLESHOT, cpu_index(), 0);
}

/// Blocks by the hypercall until this CPU's timer has fired, `ticks` from now. Blocking takes the mask off, so an event that
/// comes before is seen.
pub fn block_for(ticks: u64) -> i64 {
    static FIRED: AtomicU64 = AtomicU64::new(0);
    let before = FIRED.load(Ordering::SeqCst);
    super::irq_off();
    on_timer(|_| {
        FIRED.fetch_add(1, Ordering::SeqCst);
    });
    let end = now() + ticks;
    timer_at(end);
    let mut errno = 0;
    while FIRED.load(Ordering::SeqCst) == before && errno == 0 && now() < end + ticks_per_second() {
        super::irq_off();
        errno = sched::block();
    }
    super::irq_off();
    timer_off();
    timer_release();
    if errno == 0 && FIRED.load(Ordering::SeqCst) == before {
        i64::MIN
    } else {
        errno
    }
}
