//! Time by the TSC, and the local APIC's timer: by TSC deadline where the CPU has it (unless the word
//! `timer=oneshot` is there), else as a one-shot whose frequency is measured against the TSC.

use core::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

use super::apic::{self, reg, vector};
use super::cpu::this_cpu;
use super::gate::leaves;
use super::regs::{cpuid, msr, wrmsr};
use crate::bootargs;

const MASKED: u32 = 1 << 16;
const PERIODIC: u32 = 1 << 17;
const DEADLINE: u32 = 1 << 18;
const DIVIDE_BY_1: u32 = 0b1011;

static HERTZ: AtomicU64 = AtomicU64::new(0);
static APIC_HERTZ: AtomicU64 = AtomicU64::new(0);
static BY_DEADLINE: AtomicU32 = AtomicU32::new(0);
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

/// Spins for so many ticks.
pub(super) fn pause(ticks: u64) {
    let end = now() + ticks;
    while now() < end {
        core::hint::spin_loop();
    }
}

/// Frequency of the local APIC's timer, as measured.
pub fn apic_hertz() -> u64 {
    APIC_HERTZ.load(Ordering::Relaxed)
}

/// Whether the timer is armed by TSC deadline.
pub fn has_deadline() -> bool {
    BY_DEADLINE.load(Ordering::Relaxed) != 0
}

pub(super) fn init() {
    // Leaf 3 of the hypervisor tells the guest's TSC frequency in kHz; a paravirtual clock could as well.
    let kilohertz = match leaves() {
        0 => 0,
        base => u64::from(cpuid(base + 3, 0).ecx),
    };
    HERTZ.store(kilohertz * 1000, Ordering::Relaxed);
    if kilohertz == 0 {
        HERTZ.store(by_pv_clock(), Ordering::Relaxed);
    }
    let deadline = cpuid(1, 0).ecx >> 24 & 1 != 0 && bootargs::word("timer") != Some("oneshot");
    BY_DEADLINE.store(u32::from(deadline), Ordering::Relaxed);
}

/// TSC frequency by the scale in `vcpu_time_info` of the shared-info page.
fn by_pv_clock() -> u64 {
    let page = crate::xen::shared::page();
    let (multiplier, shift): (u32, i8) = (page.read(32 + 24), page.read(32 + 28));
    if multiplier == 0 {
        panic!("the hypervisor does not tell the TSC's frequency");
    }
    let hertz = (1_000_000_000u128 << 32) / u128::from(multiplier);
    let hertz = if shift >= 0 {
        hertz >> shift
    } else {
        hertz << -shift
    };
    hertz as u64
}

/// Masks this CPU's timer; on the first CPU, measures its frequency.
pub(super) fn init_cpu() {
    apic::write(reg::LVT_TIMER, MASKED | u32::from(vector::TIMER));
    apic::write(reg::TIMER_DIVIDE, DIVIDE_BY_1);
    if APIC_HERTZ.load(Ordering::Relaxed) == 0 {
        APIC_HERTZ.store(measure(), Ordering::Relaxed);
    }
}

/// Frequency of the APIC's timer. An emulator may stand still between two instructions: of several measurements
/// the one counts whose begin and end are known best.
fn measure() -> u64 {
    let mut best = (u64::MAX, 0);
    for _ in 0..8 {
        let before = now();
        apic::write(reg::TIMER_INITIAL, u32::MAX);
        let start = now();
        pause(ticks_per_second() / 1000);
        let end = now();
        let counted = u64::from(u32::MAX - apic::read(reg::TIMER_CURRENT));
        let after = now();
        let doubt = start - before + after - end;
        best = best.min((doubt, counted * ticks_per_second() / (after - start)));
    }
    apic::write(reg::TIMER_INITIAL, 0);
    best.1
}

/// Has `handler` called on this CPU when its timer fires.
pub fn on_timer(handler: fn(u32)) {
    HANDLER.store(handler as usize, Ordering::Relaxed);
    apic::on_vector(vector::TIMER, fired);
    let mode = if has_deadline() { DEADLINE } else { 0 };
    apic::write(reg::LVT_TIMER, mode | u32::from(vector::TIMER));
}

fn fired(line: u32) {
    let deadline = this_cpu().deadline.load(Ordering::Relaxed);
    if now() < deadline {
        // The measured frequency was a little high.
        timer_at(deadline);
        return;
    }
    // SAFETY: only `on_timer` stores here, and it stores a `fn(u32)`.
    let handler: fn(u32) = unsafe { core::mem::transmute(HANDLER.load(Ordering::Relaxed)) };
    handler(line);
}

/// Arms this CPU's timer for `at` (TSC).
pub fn timer_at(at: u64) {
    this_cpu().deadline.store(at, Ordering::Relaxed);
    if has_deadline() {
        wrmsr(msr::TSC_DEADLINE, at);
        return;
    }
    apic::write(reg::TIMER_INITIAL, count(at.saturating_sub(now())));
}

/// Counts of the APIC's timer in so many ticks, at least one.
fn count(ticks: u64) -> u32 {
    let counts = ticks.saturating_mul(APIC_HERTZ.load(Ordering::Relaxed)) / ticks_per_second() + 1;
    u32::try_from(counts).unwrap_or(u32::MAX)
}

/// Has this CPU's timer fire every so many ticks, until `timer_off`.
pub fn timer_every(ticks: u64) {
    this_cpu().deadline.store(0, Ordering::Relaxed);
    apic::write(reg::LVT_TIMER, PERIODIC | u32::from(vector::TIMER));
    apic::write(reg::TIMER_INITIAL, count(ticks));
}

/// Disarms this CPU's timer.
pub fn timer_off() {
    if has_deadline() {
        wrmsr(msr::TSC_DEADLINE, 0);
    }
    if !has_deadline() || apic::read(reg::LVT_TIMER) & PERIODIC != 0 {
        apic::write(reg::TIMER_INITIAL, 0);
    }
}
