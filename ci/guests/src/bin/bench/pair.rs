//! Events to and fro between this domain and one beside it that runs `guest-neighbour`, on one CPU: both sleep until the
//! other's signal comes, so a round trip is two sends, two wake-ups and two switches between domains.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use xenolith_guests::arch;
use xenolith_guests::count::instructions;
use xenolith_guests::report::value;
use xenolith_guests::xen::{event, sched, shared};

use super::LOOPS;

/// The neighbour's port is one of the first: it asked for nothing before.
const PORTS: core::ops::RangeInclusive<u32> = 1..=4;
/// How long the neighbour may take to come up, in seconds.
const PATIENCE: u64 = 20;

static PORT: AtomicU32 = AtomicU32::new(0);
static ANSWERS: AtomicU64 = AtomicU64::new(0);

pub(super) fn measure(domain: u16) {
    shared::page();
    arch::on_event(|_| {
        shared::take_upcall(0);
        if shared::clear_pending(PORT.load(Ordering::Relaxed)) {
            ANSWERS.fetch_add(1, Ordering::Relaxed);
        }
    });
    let Some(port) = offered_by(domain) else {
        return value("event_ping_pong_has_no_peer", 1);
    };
    PORT.store(port, Ordering::Relaxed);
    // Binding leaves a signal.
    shared::clear_pending(port);
    shared::clear_mask(port);
    for _ in 0..16 {
        there_and_back(port);
    }
    let start = arch::now();
    for _ in 0..LOOPS {
        there_and_back(port);
    }
    let ticks = arch::now() - start;
    shared::mask(port);
    value("event_ping_pong", (instructions(ticks) / LOOPS) as i64);
}

/// A port bound to the one that the neighbour offers, as soon as it does.
fn offered_by(domain: u16) -> Option<u32> {
    let end = arch::now() + PATIENCE * arch::ticks_per_second();
    while arch::now() < end {
        if let Some(port) = PORTS
            .clone()
            .find_map(|port| event::bind_interdomain(domain, port).ok())
        {
            return Some(port);
        }
        sched::yield_now();
    }
    None
}

fn there_and_back(port: u32) {
    let before = ANSWERS.load(Ordering::Relaxed);
    event::send(port);
    while ANSWERS.load(Ordering::Relaxed) == before {
        arch::wait_and_take();
    }
}
