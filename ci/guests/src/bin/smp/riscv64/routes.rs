//! An event of the first CPU whose source the guest has routed to the second one's context alone.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use xenolith_guests::arch::{self, plic};
use xenolith_guests::report::Outcome;
use xenolith_guests::xen::{event, shared};
use xenolith_guests::{cpus, ensure, expect};

use super::Case;

pub(crate) const TO_ANOTHER: Case = ("plic.an_event_comes_where_its_source_is_routed", to_another);

const ROUNDS: u64 = 200;
static PORT: AtomicU32 = AtomicU32::new(0);
static CAME: AtomicU64 = AtomicU64::new(0);
static ASTRAY: AtomicU64 = AtomicU64::new(0);

fn came(_: u32) {
    shared::take_upcall(0);
    if shared::clear_pending(PORT.load(Ordering::SeqCst)) {
        let count = match arch::cpu_index() {
            1 => &CAME,
            _ => &ASTRAY,
        };
        count.fetch_add(1, Ordering::SeqCst);
    }
}

/// Sleeps until an interrupt comes, again and again.
fn sleep(_: usize) {
    arch::irq_off();
    while CAME.load(Ordering::SeqCst) < 2 * ROUNDS {
        arch::wait_and_take();
    }
    arch::irq_on();
}

fn to_another() -> Outcome {
    let source = arch::event_source(0);
    if source == 0 {
        return Ok(());
    }
    shared::page();
    let Ok(port) = event::bind_ipi(0) else {
        ensure!(false, "no port");
        return Ok(());
    };
    PORT.store(port, Ordering::SeqCst);
    plic::on_source(source, came);
    plic::disable(0, source);
    plic::enable(1, source);
    shared::take_upcall(0);
    shared::clear_mask(port);
    arch::irq_on();
    let mut lost = false;
    for round in 1..=2 * ROUNDS {
        // Awake at first, and then asleep.
        if round == ROUNDS + 1 {
            cpus::begin(1, sleep);
        }
        event::send(port);
        if !cpus::wait_for(|| CAME.load(Ordering::SeqCst) == round) {
            lost = true;
            break;
        }
    }
    // It is taken where it was, so that nothing sleeps for ever.
    CAME.fetch_add(2 * ROUNDS, Ordering::SeqCst);
    arch::ipi_send(1);
    ensure!(cpus::wait_for(|| cpus::is_idle(1)), "cpu 1 hangs");
    plic::disable(1, source);
    plic::enable(0, source);
    shared::mask(port);
    shared::clear_pending(port);
    event::close(port);
    ensure!(!lost, "it did not come");
    expect!(ASTRAY.load(Ordering::SeqCst), 0, "on other CPUs");
    Ok(())
}
