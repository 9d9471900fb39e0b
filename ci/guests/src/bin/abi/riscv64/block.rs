//! `SCHEDOP_block` with interrupts masked: here the call unmasks them.

use core::sync::atomic::{AtomicU64, Ordering};

use xenolith_guests::xen::{event, sched, shared};
use xenolith_guests::{arch, expect};

use crate::event::must;
use crate::{Case, Outcome};

pub(crate) const CASES: &[Case] = &[
    ("sched.block_unmasks_interrupts", block_unmasks),
    ("sched.block_with_an_event_pending_returns", block_pending),
];

static FIRED: AtomicU64 = AtomicU64::new(0);

fn on_timer(_line: u32) {
    arch::timer_off();
    FIRED.fetch_add(1, Ordering::SeqCst);
}

/// The guest blocks with interrupts masked and goes on without: the interrupt is taken at once.
fn block_unmasks() -> Outcome {
    arch::on_timer(on_timer);
    arch::irq_off();
    let before = FIRED.load(Ordering::SeqCst);
    arch::timer_at(arch::now() + arch::ticks_per_second() / 1000);
    expect!(sched::block(), 0);
    let after = FIRED.load(Ordering::SeqCst);
    arch::irq_off();
    expect!(after, before + 1);
    Ok(())
}

fn block_pending() -> Outcome {
    arch::irq_off();
    shared::page();
    let port = must("bind_ipi", event::bind_ipi(0))?;
    shared::clear_mask(port);
    shared::clear_pending(port);
    arch::on_event(|_| {
        shared::take_upcall(0);
    });
    expect!(event::send(port), 0);
    expect!(sched::block(), 0);
    arch::irq_on();
    arch::irq_off();
    shared::mask(port);
    shared::clear_pending(port);
    expect!(event::close(port), 0);
    Ok(())
}
