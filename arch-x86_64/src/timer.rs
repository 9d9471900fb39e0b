//! Time: the time-stamp counter gives it, the local APIC's timer gives deadlines. The rate of the first is measured against
//! the PC's interval timer at start-up (8254 data sheet), that of the second against the first.

use core::{
    arch::x86_64::_rdtsc,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use x86_64::instructions::port::Port;
use xenolith_hal::Nanos;

use crate::apic;

static BOOT_TICKS: AtomicU64 = AtomicU64::new(0);
/// Factors as 32.32 fixed point numbers; 0 while the APIC timer's rate is not known.
static NANOS_PER_TICK: AtomicU64 = AtomicU64::new(0);
static APIC_PER_NANO: AtomicU64 = AtomicU64::new(0);

/// Ticks of the interval timer in 10 ms, and how often that fits a second.
const WINDOW: u16 = 11_932;
const WINDOWS_A_SECOND: u64 = 100;
/// The interval timer is given up after so many looks.
const PATIENCE: u32 = 20_000_000;

fn scale(value: u64, factor: u64) -> u64 {
    ((u128::from(value) * u128::from(factor)) >> 32) as u64
}

/// The time-stamp counter.
#[inline]
pub fn ticks() -> u64 {
    // SAFETY: every CPU with long mode has the counter.
    unsafe { _rdtsc() }
}

/// Measures the counter; its rate in ticks a second.
pub fn init() -> Result<u64, &'static str> {
    // An interruption (by an emulator's host, by firmware) only makes a window longer.
    let window = (0..3).filter_map(|_| measure()).min();
    let hz = window.filter(|ticks| *ticks != 0).ok_or(
        "the PC's interval timer does not run: the time-stamp counter's rate cannot be found",
    )? * WINDOWS_A_SECOND;
    NANOS_PER_TICK.store((1_000_000_000u64 << 32) / hz, Relaxed);
    BOOT_TICKS.store(ticks(), Relaxed);
    Ok(hz)
}

/// Counter ticks in one window of the interval timer's third channel.
fn measure() -> Option<u64> {
    const ONE_SHOT_CHANNEL_2: u8 = 0xb0;
    const GATE: u8 = 1;
    const SPEAKER: u8 = 2;
    const DONE: u8 = 1 << 5;
    let (mut control, mut channel, mut gate) = (
        Port::<u8>::new(0x43),
        Port::<u8>::new(0x42),
        Port::<u8>::new(0x61),
    );
    let [low, high] = WINDOW.to_le_bytes();
    // SAFETY: the interval timer's third channel belongs to the speaker, which nobody uses.
    unsafe {
        let before = gate.read();
        gate.write(before & !SPEAKER | GATE);
        control.write(ONE_SHOT_CHANNEL_2);
        channel.write(low);
        channel.write(high);
        let start = ticks();
        let done = (0..PATIENCE).any(|_| gate.read() & DONE != 0);
        let end = ticks();
        gate.write(before);
        done.then(|| end.wrapping_sub(start))
    }
}

/// Time since start-up.
#[inline]
pub fn now() -> Nanos {
    let ticks = ticks().wrapping_sub(BOOT_TICKS.load(Relaxed));
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
    const SPAN: Nanos = Nanos::from_millis(1);
    apic::start_timer(u32::MAX);
    let start = now();
    wait(SPAN, || false);
    let counted = u64::from(u32::MAX - apic::timer_count());
    let took = now().since(start).0.max(1);
    apic::start_timer(0);
    APIC_PER_NANO.store(
        ((u128::from(counted) << 32) / u128::from(took)) as u64,
        Relaxed,
    );
}

/// Programs this CPU's timer. A deadline too far away for the timer is met in steps: the interrupt comes early.
pub fn set(deadline: Option<Nanos>) {
    let count = deadline.map_or(0, |at| {
        let left = scale(at.since(now()).0, APIC_PER_NANO.load(Relaxed));
        u32::try_from(left.saturating_add(1)).unwrap_or(u32::MAX)
    });
    apic::start_timer(count);
}
