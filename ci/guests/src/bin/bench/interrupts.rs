//! From raising an interrupt to its handler, and round trips.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use xenolith_guests::arch;
use xenolith_guests::count::instructions;
use xenolith_guests::report::{self, value};
use xenolith_guests::xen::{event, shared};

use super::{LOOPS, shift_in_tick, ticks};

static SEEN: AtomicU64 = AtomicU64::new(0);
static PORT: AtomicU32 = AtomicU32::new(0);

pub(super) fn measure() {
    arch::on_ipi(|_| seen());
    arch::on_timer(|_| {
        arch::timer_off();
        seen();
    });
    arch::irq_on();
    to_handler("self_sgi", || arch::ipi_send(0));
    to_handler("busy_timer", busy_timer);
    shared::page();
    if let Ok(port) = event::bind_ipi(0) {
        arch::on_event(|_| {
            shared::take_upcall(0);
            shared::clear_pending(PORT.load(Ordering::Relaxed));
            seen();
        });
        shared::clear_mask(port);
        PORT.store(port, Ordering::Relaxed);
        to_handler("event_ipi", || {
            event::send(port);
        });
        shared::mask(port);
    }
    arch::irq_off();
}

fn seen() {
    SEEN.fetch_add(1, Ordering::Relaxed);
}

/// Arms the timer for now: it fires at once while the CPU is busy.
fn busy_timer() {
    arch::timer_at(arch::now());
}

/// Measures `raise` to the vector's entry, and until the code after `raise` goes on.
fn to_handler(name: &str, raise: impl Fn()) {
    if !report::is_wanted(name) {
        return;
    }
    raise();
    let mut to_handler = 0;
    let mut round_trip = 0;
    let mut once = || {
        let count = SEEN.load(Ordering::Relaxed);
        shift_in_tick(count);
        let start = arch::now();
        raise();
        while SEEN.load(Ordering::Relaxed) == count {
            arch::relax();
        }
        round_trip += arch::now() - start;
        to_handler += arch::entry_stamp() - start;
    };
    ticks(&mut once);
    value(name, (instructions(to_handler) / LOOPS) as i64);
    value(
        format_args!("{name}_round_trip"),
        (instructions(round_trip) / LOOPS) as i64,
    );
}
