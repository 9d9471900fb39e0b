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
