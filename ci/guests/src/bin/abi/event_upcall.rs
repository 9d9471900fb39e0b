//! Event channels: the upcall interrupt, and polling for it.

use core::sync::atomic::{AtomicU64, Ordering};

use xenolith_guests::report::value;
use xenolith_guests::xen::{event, sched, shared};
use xenolith_guests::{arch, cpus, ensure, expect};

use super::event::{must, pair};
use super::{Case, Outcome};

pub(crate) const CASES: &[Case] = &[
    ("upcall.by_interrupt", by_interrupt),
    ("upcall.once_for_a_pending_port", once),
    ("upcall.names_the_word_of_the_port", selector),
    ("upcall.wakes_from_wait", wakes_from_wait),
    ("upcall.poll_sees_a_pending_port", poll),
    ("upcall.interrupt_is_taken_when_unmasked_later", later),
];

static UPCALLS: AtomicU64 = AtomicU64::new(0);
static SELECTOR: AtomicU64 = AtomicU64::new(0);

fn upcall(_line: u32) {
    SELECTOR.store(shared::take_upcall(0), Ordering::SeqCst);
    UPCALLS.fetch_add(1, Ordering::SeqCst);
}

fn upcalls() -> u64 {
    UPCALLS.load(Ordering::SeqCst)
}

/// An IPI port of vCPU 0, not pending and not masked, with the upcall handled.
fn ready() -> Result<u32, xenolith_guests::report::Why> {
    shared::page();
    arch::irq_off();
    shared::take_upcall(0);
    arch::on_event(upcall);
    let port = must("bind_ipi", event::bind_ipi(0))?;
    shared::clear_pending(port);
    shared::clear_mask(port);
    arch::irq_on();
    Ok(port)
}

fn finish(port: u32) -> Outcome {
    arch::irq_off();
    shared::mask(port);
    shared::clear_pending(port);
    expect!(event::close(port), 0);
    Ok(())
}

fn by_interrupt() -> Outcome {
    let port = ready()?;
    for _ in 0..10 {
        let before = upcalls();
        expect!(event::send(port), 0);
        ensure!(cpus::wait_for(|| upcalls() == before + 1), "no upcall");
        ensure!(shared::clear_pending(port), "the port is not pending");
    }
    finish(port)
}

fn once() -> Outcome {
    let port = ready()?;
    let before = upcalls();
    expect!(event::send(port), 0);
    ensure!(cpus::wait_for(|| upcalls() == before + 1), "no upcall");
    expect!(event::send(port), 0, "when still pending");
    expect!(event::send(port), 0, "when still pending");
    let soon = arch::now() + arch::ticks_per_second() / 1000;
    cpus::wait_for(|| arch::now() > soon);
    expect!(upcalls(), before + 1);
    shared::clear_pending(port);
    finish(port)
}

fn selector() -> Outcome {
    let port = ready()?;
    let before = upcalls();
    expect!(event::send(port), 0);
    ensure!(cpus::wait_for(|| upcalls() == before + 1), "no upcall");
    expect!(SELECTOR.load(Ordering::SeqCst), 1 << (port / 64));
    finish(port)
}

fn wakes_from_wait() -> Outcome {
    let port = ready()?;
    arch::irq_off();
    let before = upcalls();
    expect!(event::send(port), 0);
    arch::wait();
    expect!(upcalls(), before, "taken while interrupts were off");
    arch::irq_on();
    ensure!(cpus::wait_for(|| upcalls() == before + 1), "no upcall");
    finish(port)
}

fn poll() -> Outcome {
    let (end, local) = pair()?;
    expect!(event::send(local), 0);
    expect!(sched::poll(&[local, end], 0), 0, "one of two is pending");
    ensure!(shared::clear_pending(end));
    value("upcall.poll_past_timeout", sched::poll(&[end], 1));
    expect!(event::close(local), 0);
    expect!(event::close(end), 0);
    Ok(())
}

fn later() -> Outcome {
    let port = ready()?;
    shared::mask(port);
    let before = upcalls();
    expect!(event::send(port), 0);
    let soon = arch::now() + arch::ticks_per_second() / 1000;
    cpus::wait_for(|| arch::now() > soon);
    expect!(upcalls(), before, "while masked");
    expect!(event::unmask(port), 0);
    ensure!(
        cpus::wait_for(|| upcalls() == before + 1),
        "no upcall at unmask"
    );
    finish(port)
}
