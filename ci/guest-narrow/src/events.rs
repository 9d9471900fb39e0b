//! Event channels and time as the 32-bit shared page has them: `arch-x86/xen-x86_32.h`, `xen.h`.

use core::sync::atomic::{AtomicU32, Ordering::SeqCst};

use crate::machine::{self, NARROW_INFO, NARROW_UPCALLS, Page, named};
use crate::xen::{self, Poll, SELF, SingleShot, nr, operate};
use crate::{Outcome, ensure, equal};

static SHARED: Page = Page::new();
/// Where the `vcpu_info` goes, at an offset.
static OWN: Page = Page::new();
const OFFSET: u32 = 128;
const PENDING: u32 = 0x800;
const MASK: u32 = 0x880;

mod operation {
    pub const BIND_INTERDOMAIN: u32 = 0;
    pub const BIND_VIRQ: u32 = 1;
    pub const CLOSE: u32 = 3;
    pub const SEND: u32 = 4;
    pub const ALLOC_UNBOUND: u32 = 6;
    pub const UNMASK: u32 = 9;
}

/// Maps the shared page; the call's result.
pub fn init() -> i32 {
    let result = xen::map_shared_info(&SHARED);
    NARROW_INFO.store(SHARED.address(), SeqCst);
    result
}

/// A word of the `vcpu_info`.
fn info(offset: u32) -> &'static AtomicU32 {
    match NARROW_INFO.load(SeqCst) == SHARED.address() {
        true => SHARED.at(offset),
        false => OWN.at(OFFSET + offset),
    }
}

fn flag() -> u32 {
    info(0).load(SeqCst) & 0xff
}

fn clear_info() {
    info(0).fetch_and(!0xff, SeqCst);
    info(4).store(0, SeqCst);
}

fn event<T>(number: u32, mut argument: T) -> Result<T, (&'static str, i64)> {
    equal!(operate(nr::EVENT, number, &mut argument), 0);
    Ok(argument)
}

/// A port beyond the first word of bits, and all that were opened for it.
struct Ports([u32; 40], usize);

impl Ports {
    fn open() -> Result<Self, (&'static str, i64)> {
        let mut ports = Self([0; 40], 0);
        while ports.last() < 33 {
            let halves = u32::from(SELF) << 16 | u32::from(SELF);
            let [_, port] = event(operation::ALLOC_UNBOUND, [halves, 0])?;
            ports.0[ports.1] = port;
            ports.1 += 1;
        }
        Ok(ports)
    }

    fn last(&self) -> u32 {
        self.0[..self.1].last().copied().unwrap_or(0)
    }

    fn close(self) -> Outcome {
        for port in &self.0[..self.1] {
            event(operation::CLOSE, *port)?;
        }
        Ok(())
    }
}

fn is_pending(port: u32) -> bool {
    SHARED.at(PENDING + port / 8).load(SeqCst) >> (port % 32) & 1 != 0
}

fn clear(port: u32) {
    SHARED
        .at(PENDING + port / 8)
        .fetch_and(!(1 << (port % 32)), SeqCst);
}

/// Two ends in this domain; runs `then` with the one that is sent to and the one that sends, which is the higher.
fn with_pair(then: fn(u32, u32) -> Outcome) -> Outcome {
    let ports = Ports::open()?;
    let to = ports.last();
    let [_, _, from] = event(operation::BIND_INTERDOMAIN, [u32::from(SELF), to, 0])?;
    clear(from);
    clear(to);
    clear_info();
    let outcome = then(to, from);
    clear(from);
    clear(to);
    clear_info();
    event(operation::CLOSE, from)?;
    ports.close()?;
    outcome
}

/// A word has 32 bits, in the bitmap and as the selector.
pub fn bits() -> Outcome {
    with_pair(|to, from| {
        event(operation::SEND, from)?;
        equal!(is_pending(to), true);
        equal!(flag(), 1);
        ensure!(info(4).load(SeqCst), |words| words >> (to / 32) & 1 != 0);
        Ok(())
    })
}

/// The mask follows the pending bits after 128 bytes.
pub fn mask() -> Outcome {
    with_pair(|to, from| {
        let word = SHARED.at(MASK + to / 8);
        word.fetch_or(1 << (to % 32), SeqCst);
        event(operation::SEND, from)?;
        equal!(is_pending(to), true);
        equal!(flag(), 0);
        equal!(info(4).load(SeqCst), 0);
        event(operation::UNMASK, to)?;
        equal!(word.load(SeqCst) >> (to % 32) & 1, 0);
        equal!(flag(), 1);
        ensure!(info(4).load(SeqCst), |words| words >> (to / 32) & 1 != 0);
        Ok(())
    })
}

/// The interrupt comes, once.
pub fn upcall() -> Outcome {
    with_pair(|_, from| {
        machine::let_interrupts_in();
        let before = NARROW_UPCALLS.load(SeqCst);
        event(operation::SEND, from)?;
        machine::let_interrupts_in();
        equal!(NARROW_UPCALLS.load(SeqCst) - before, 1);
        equal!(flag(), 0);
        Ok(())
    })
}

/// A port that is pending ends a poll at once.
pub fn poll() -> Outcome {
    with_pair(|to, from| {
        event(operation::SEND, from)?;
        let mut list = [to];
        let mut argument = Poll {
            ports: named(&raw mut list),
            count: 1,
            timeout: 0,
        };
        equal!(operate(nr::SCHED, 3, &mut argument), 0);
        Ok(())
    })
}

/// Seconds since 1970, in a place that only 32-bit guests have for their upper half.
pub fn wall_clock() -> Outcome {
    ensure!(SHARED.at(0x900).load(SeqCst), |version| version % 2 == 0);
    ensure!(SHARED.at(0x904).load(SeqCst), |seconds| seconds > 1 << 30);
    ensure!(SHARED.at(0x908).load(SeqCst), |ns| ns < 1_000_000_000);
    equal!(SHARED.at(0x924).load(SeqCst), 0);
    Ok(())
}

/// A pair of words of the `vcpu_time_info`, which is 32 bytes into the `vcpu_info` for guests of either kind.
fn time_pair(offset: u32) -> u64 {
    let word = |at| u64::from(info(32 + at).load(SeqCst));
    word(offset) | word(offset + 4) << 32
}

/// Nanoseconds since the start.
fn now() -> u64 {
    let (then, nanoseconds) = (time_pair(8), time_pair(16));
    let (factor, shift) = (info(32 + 24), info(32 + 28).load(SeqCst) as i8);
    let ticks = machine::ticks().wrapping_sub(then);
    let shifted = match shift {
        0.. => ticks << shift,
        _ => ticks >> -shift,
    };
    let scaled = (u128::from(shifted) * u128::from(factor.load(SeqCst))) >> 32;
    nanoseconds + scaled as u64
}

/// It goes on.
pub fn time() -> Outcome {
    ensure!(info(32).load(SeqCst), |version| version != 0
        && version % 2 == 0);
    let before = now();
    ensure!(before, |time| time != 0);
    ensure!(now() - before, |passed| (1..1 << 40).contains(&passed));
    Ok(())
}

/// Sleeps until the timer's event is there.
fn until_timer(start: fn(u64) -> i32) -> Outcome {
    const MILLISECOND: u64 = 1_000_000;
    let [_, _, port] = event(operation::BIND_VIRQ, [0, 0, 0])?;
    clear(port);
    clear_info();
    equal!(start(now() + MILLISECOND), 0);
    for _ in 0..1000 {
        if is_pending(port) {
            break;
        }
        machine::sleep();
    }
    let came = is_pending(port);
    clear(port);
    clear_info();
    event(operation::CLOSE, port)?;
    equal!(came, true);
    Ok(())
}

/// The time in two registers.
pub fn set_timer() -> Outcome {
    until_timer(|at| machine::call(nr::SET_TIMER, [at as u32, (at >> 32) as u32, 0]))
}

/// The time in a structure that a 64-bit caller has at another size.
pub fn singleshot_timer() -> Outcome {
    until_timer(|at| xen::vcpu(8, &mut SingleShot { at, flags: 0 }))
}

/// `VCPUOP_register_vcpu_info`.
pub fn register() -> Outcome {
    let mut argument = [OWN.frame(), 0, OFFSET, 0];
    equal!(xen::vcpu(10, &mut argument), 0);
    NARROW_INFO.store(OWN.address() + OFFSET, SeqCst);
    Ok(())
}
