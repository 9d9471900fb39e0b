//! Time: the time-stamp counter gives it, the local APIC's timer gives deadlines. The rate of the first is measured at
//! start-up by a clock whose rate is known, that of the second against the first.
//!
//! All CPUs' counters are CPU 0's: they agree, or were made to, or what they show is corrected by their distance. A CPU for
//! which none of it can be had stays off.

mod clocks;

use core::{
    arch::{asm, x86_64::_rdtsc},
    sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed},
};

use x86_64::{instructions::port::Port, registers::model_specific::Msr};
use xenolith_hal::{CpuId, MAX_CPUS, Nanos};

use crate::{
    acpi::Acpi,
    apic,
    calibration::{self, Clock, Source},
    cpu::{cpuid::cpuid, percpu},
};

static BOOT_TICKS: AtomicU64 = AtomicU64::new(0);
/// Factors as 32.32 fixed point numbers; 0 while the APIC timer's rate is not known.
static NANOS_PER_TICK: AtomicU64 = AtomicU64::new(0);
static APIC_PER_NANO: AtomicU64 = AtomicU64::new(0);

fn scale(value: u64, factor: u64) -> u64 {
    ((u128::from(value) * u128::from(factor)) >> 32) as u64
}

/// Whether a CPU's counter is at a distance from CPU 0's that has to be taken off.
static APART: AtomicBool = AtomicBool::new(false);
/// Whether all counters go on alike, so that guests may compare what they read on different CPUs.
static TOGETHER: AtomicBool = AtomicBool::new(true);
/// How far each CPU's counter is ahead of CPU 0's, in ticks.
static AHEAD: [AtomicI64; MAX_CPUS] = [const { AtomicI64::new(0) }; MAX_CPUS];

/// CPU 0's time-stamp counter, as far as the executing CPU knows it.
#[inline]
pub fn ticks() -> u64 {
    // SAFETY: every CPU with long mode has the counter.
    let ticks = unsafe { _rdtsc() };
    if APART.load(Relaxed) {
        return ticks.wrapping_sub(ahead(percpu::cpu_id()) as u64);
    }
    ticks
}

/// The executing CPU's own time-stamp counter, read after everything before and before everything after.
pub fn own_ticks() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: every CPU with long mode has the instructions, which change nothing else.
    unsafe {
        asm!("lfence", "rdtsc", "lfence", out("eax") low, out("edx") high, options(nostack, preserves_flags));
    }
    u64::from(high) << 32 | u64::from(low)
}

/// Moves the executing CPU's own counter, if the CPU lets it.
pub fn move_own(ticks: i64) {
    const TSC: u32 = 0x10;
    const TSC_ADJUST: u32 = 0x3b;
    const HAS_ADJUST: u32 = 1 << 1;
    let has_adjust = cpuid(0, 0).eax >= 7 && cpuid(7, 0).ebx & HAS_ADJUST != 0;
    let mut msr = Msr::new(if has_adjust { TSC_ADJUST } else { TSC });
    // SAFETY: the register exists; time is all that depends on it, and nothing on this CPU has read the time yet.
    unsafe {
        let before = msr.read();
        msr.write(before.wrapping_add(ticks as u64));
    }
}

/// A CPU's counter stays so many ticks ahead of CPU 0's.
pub fn set_ahead(cpu: CpuId, ticks: i64) {
    if let Some(ahead) = AHEAD.get(cpu.index()) {
        ahead.store(ticks, Relaxed);
        APART.store(true, Relaxed);
    }
    TOGETHER.store(false, Relaxed);
}

/// Whether what guests read of the counter on different CPUs can be compared.
pub fn together() -> bool {
    TOGETHER.load(Relaxed)
}

/// How many ticks a CPU's counter is ahead of CPU 0's.
pub fn ahead(cpu: CpuId) -> i64 {
    AHEAD
        .get(cpu.index())
        .map_or(0, |ahead| ahead.load(Relaxed))
}

/// Finds the counter's rate; time begins here.
pub fn init(acpi: &Acpi<'_>) -> Result<(), &'static str> {
    let leaf = |number| {
        let leaf = cpuid(number, 0);
        [leaf.eax, leaf.ebx, leaf.ecx, leaf.edx]
    };
    let told = calibration::told(leaf);
    let measured = clocks::rate(acpi, own_ticks);
    let (hertz, source) = calibration::decide(told, measured.map(|(_, rate)| rate)).ok_or(
        "no clock runs (HPET, PM timer, interval timer): the time-stamp counter's rate cannot be found",
    )?;
    NANOS_PER_TICK.store((1_000_000_000u64 << 32) / hertz.max(1), Relaxed);
    BOOT_TICKS.store(ticks(), Relaxed);
    let kilohertz = hertz / 1000;
    match (measured, source) {
        (Some((name, rate)), Source::Clock | Source::ClockAgainstCpuid) => {
            log::info!(
                "time-stamp counter {kilohertz} kHz by {name}, to {} millionths",
                rate.error
            );
            if rate.lone {
                log::warn!("measurements of the time-stamp counter differ: time may go wrong");
            }
        }
        _ => log::info!("time-stamp counter {kilohertz} kHz by CPUID"),
    }
    if source == Source::ClockAgainstCpuid {
        log::info!("CPUID tells another rate of the time-stamp counter: not believed");
    }
    Ok(())
}

/// Time since start-up.
#[inline]
pub fn now() -> Nanos {
    let ticks = ticks().wrapping_sub(BOOT_TICKS.load(Relaxed));
    Nanos(scale(ticks, NANOS_PER_TICK.load(Relaxed)))
}

/// A span in ticks.
pub fn in_ticks(span: Nanos) -> u64 {
    let factor = NANOS_PER_TICK.load(Relaxed).max(1);
    ((u128::from(span.0) << 32) / u128::from(factor)) as u64
}

/// Ticks as a span.
pub fn from_ticks(ticks: u64) -> Nanos {
    Nanos(scale(ticks, NANOS_PER_TICK.load(Relaxed)))
}

/// How nanoseconds come from ticks, as guests compute them: ticks shifted left by `shift` (right, if negative), times
/// `factor`, divided by 2^32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Between 2^31 and 2^32.
    pub factor: u32,
    /// Bits.
    pub shift: i8,
}

/// The rate of the counter for guests.
pub fn rate() -> Rate {
    let mut factor = NANOS_PER_TICK.load(Relaxed).max(1);
    let mut shift = 0;
    while factor >> 32 != 0 {
        factor >>= 1;
        shift += 1;
    }
    while factor >> 31 == 0 {
        factor <<= 1;
        shift -= 1;
    }
    Rate {
        factor: factor as u32,
        shift,
    }
}

/// A tick and the time at which it came.
#[derive(Clone, Copy, Debug)]
pub struct Reference {
    /// The counter.
    pub ticks: u64,
    /// The time.
    pub nanos: Nanos,
}

/// Where the counter and the time meet: time zero, so that every guest computes what the hypervisor does.
pub fn reference() -> Reference {
    Reference {
        ticks: BOOT_TICKS.load(Relaxed),
        nanos: Nanos(0),
    }
}

/// Ticks a second, in thousands.
pub fn kilohertz() -> u64 {
    (1_000_000u64 << 32) / NANOS_PER_TICK.load(Relaxed).max(1)
}

static BOOT_WALLCLOCK: AtomicU64 = AtomicU64::new(0);

/// Reads the machine's clock (MC146818 data sheet; the century is taken to be this one), so that the time of day at time
/// zero is known.
pub fn read_clock() {
    const STATUS_A: u8 = 0xa;
    const STATUS_B: u8 = 0xb;
    const UPDATING: u8 = 1 << 7;
    const BINARY: u8 = 1 << 2;
    const HOURS_24: u8 = 1 << 1;
    let read = |register: u8| {
        // SAFETY: the index and data ports of the clock; reading changes nothing. No domain runs yet.
        unsafe {
            Port::<u8>::new(0x70).write(register);
            Port::<u8>::new(0x71).read()
        }
    };
    let sample = || [0u8, 2, 4, 7, 8, 9].map(&read);
    // Twice alike, and not in the moment of an update.
    let mut before = sample();
    let settled = (0..1000).find_map(|_| {
        let now = sample();
        let same = now == before && read(STATUS_A) & UPDATING == 0;
        before = now;
        same.then_some(now)
    });
    let Some([seconds, minutes, hours, day, month, year]) = settled else {
        return;
    };
    let mode = read(STATUS_B);
    let number = |byte: u8| {
        let value = if mode & BINARY != 0 {
            byte
        } else {
            (byte >> 4) * 10 + (byte & 0xf)
        };
        i64::from(value)
    };
    let afternoon = mode & HOURS_24 == 0 && hours & 0x80 != 0;
    let hour = match number(hours & 0x7f) {
        12 if mode & HOURS_24 == 0 => 0,
        hour => hour,
    } + if afternoon { 12 } else { 0 };
    let days = days_since_1970(2000 + number(year), number(month), number(day));
    let at = ((days * 24 + hour) * 60 + number(minutes)) * 60 + number(seconds);
    let nanos = at.unsigned_abs().saturating_mul(1_000_000_000);
    BOOT_WALLCLOCK.store(nanos.saturating_sub(now().0), Relaxed);
}

/// Days from 1970 to a date of the Gregorian calendar, with the year counted from March so that leap days come last.
const fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let from_march = (153 * month + 2) / 5 + day - 1;
    year * 365 + year / 4 - year / 100 + year / 400 + from_march - 719_468
}

const _: () = assert!(days_since_1970(1970, 1, 1) == 0 && days_since_1970(2024, 3, 1) == 19_783);

/// The time of day at time zero, since 1970.
pub fn boot_wallclock() -> Nanos {
    Nanos(BOOT_WALLCLOCK.load(Relaxed))
}

/// Spins until `done` or for `span`; tells whether it was done.
pub fn wait(span: Nanos, done: impl Fn() -> bool) -> bool {
    let end = now().plus(span);
    loop {
        if done() {
            return true;
        }
        if now() >= end {
            return false;
        }
        core::hint::spin_loop();
    }
}

/// Finds the rate of the local APIC's timer, once it is enabled.
pub fn calibrate_apic() {
    const SPAN: u64 = 300_000_000_000;
    let femtos = u128::from(NANOS_PER_TICK.load(Relaxed)) * 1_000_000;
    let counter = Clock {
        name: "the time-stamp counter",
        period: (femtos >> 32) as u64,
        mask: u32::MAX,
    };
    apic::start_timer(u32::MAX);
    let rate = calibration::measure(
        &counter,
        SPAN,
        || own_ticks() as u32,
        || u64::from(u32::MAX - apic::timer_count()),
    );
    apic::start_timer(0);
    match rate {
        Some(rate) => {
            let factor = (u128::from(rate.hertz) << 32) / 1_000_000_000;
            APIC_PER_NANO.store(factor as u64, Relaxed);
            log::debug!("the local APIC's timer has {} kHz", rate.hertz / 1000);
        }
        None => log::error!("the local APIC's timer does not run: nothing will end a time slice"),
    }
}

/// Programs this CPU's timer. A deadline too far away for the timer is met in steps: the interrupt comes early.
pub fn set(deadline: Option<Nanos>) {
    let count = deadline.map_or(0, |at| {
        let left = scale(at.since(now()).0, APIC_PER_NANO.load(Relaxed));
        u32::try_from(left.saturating_add(1)).unwrap_or(u32::MAX)
    });
    apic::start_timer(count);
}
