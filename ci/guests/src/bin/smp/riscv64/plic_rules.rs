//! The interrupt controller's rules, seen through claim and complete with interrupts masked. The source is that of the first
//! CPU's events, as no other can be raised at will; on a bare machine only registers are looked at.

use xenolith_guests::arch::plic::{self, reg};
use xenolith_guests::arch::{self, interrupt};
use xenolith_guests::report::{Outcome, value};
use xenolith_guests::xen::{event, shared};
use xenolith_guests::{ensure, expect};

use super::Case;

pub(crate) const CASES: &[Case] = &[
    ("plic.identity", identity),
    ("plic.nothing_pending_is_0", nothing),
    ("plic.registers_read_back", read_back),
    ("plic.source_0_is_none", source_0),
    ("plic.contexts_are_apart", contexts),
    ("plic.pending_is_read_only", pending_read_only),
    ("plic.an_event_is_claimed_once", claimed_once),
    ("plic.a_disabled_source_waits", disabled_waits),
    ("plic.priority_0_is_never", priority_0),
    ("plic.threshold_holds_back", threshold),
    ("plic.raised_again_while_served", raised_again),
    ("plic.only_its_context_completes", completes),
];

/// A source that no device has, in a word with others.
const QUIET: u32 = 27;
const MOST_PRIORITY: u32 = 7;

fn identity() -> Outcome {
    value("plic.last_source", i64::from(plic::last_source()));
    for index in 0..arch::cpu_count() {
        value(
            format_args!("plic.context_of_cpu_{index}"),
            plic::context_of(index) as i64,
        );
        value(
            format_args!("plic.event_source_of_cpu_{index}"),
            i64::from(arch::event_source(index)),
        );
    }
    Ok(())
}

fn nothing() -> Outcome {
    expect!(plic::claim(), 0);
    ensure!(!arch::is_pending(interrupt::EXTERNAL));
    Ok(())
}

fn read_back() -> Outcome {
    let priority = plic::register(reg::PRIORITY + u64::from(QUIET) * 4);
    for number in [1, MOST_PRIORITY, 0] {
        plic::set_priority(QUIET, number);
        expect!(arch::read32(priority), number, "priority");
    }
    for number in [MOST_PRIORITY, 1, 0] {
        plic::set_threshold(number);
        let threshold = arch::read32(plic::context(0, reg::THRESHOLD));
        expect!(threshold, number, "threshold");
    }
    plic::enable(0, QUIET);
    ensure!(plic::is_enabled(0, QUIET), "not enabled");
    plic::disable(0, QUIET);
    ensure!(!plic::is_enabled(0, QUIET), "still enabled");
    Ok(())
}

fn source_0() -> Outcome {
    plic::set_priority(0, 1);
    let priority = arch::read32(plic::register(reg::PRIORITY));
    plic::enable(0, 0);
    let enabled = plic::is_enabled(0, 0);
    plic::disable(0, 0);
    // QEMU 7.2 keeps both.
    if !arch::sbi::is_bare() {
        expect!(priority, 0, "priority");
        ensure!(!enabled, "enabled");
    }
    expect!(plic::claim(), 0);
    Ok(())
}

fn contexts() -> Outcome {
    let all = 0..arch::cpu_count();
    for index in all.clone() {
        plic::enable(index, QUIET);
        for other in all.clone().filter(|&other| other != index) {
            ensure!(!plic::is_enabled(other, QUIET), "{index} shows at {other}");
        }
        plic::disable(index, QUIET);
    }
    Ok(())
}

fn pending_read_only() -> Outcome {
    let word = plic::register(reg::PENDING);
    let before = arch::read32(word);
    arch::write32(word, !before);
    expect!(arch::read32(word), before);
    Ok(())
}

/// Runs `f` with interrupts masked and a function that raises the source it is given; all is as before afterwards.
fn with_event(f: impl FnOnce(u32, &dyn Fn()) -> Outcome) -> Outcome {
    let source = arch::event_source(0);
    if source == 0 {
        return Ok(());
    }
    arch::irq_off();
    shared::page();
    let Ok(port) = event::bind_ipi(0) else {
        ensure!(false, "no port");
        return Ok(());
    };
    arch::on_event(|_| ());
    let settle = || {
        shared::take_upcall(0);
        shared::clear_pending(port);
    };
    let raise = || {
        settle();
        event::send(port);
    };
    settle();
    drain();
    shared::clear_mask(port);
    let outcome = f(source, &raise);
    shared::mask(port);
    settle();
    plic::set_threshold(0);
    plic::set_priority(source, 1);
    plic::enable(0, source);
    drain();
    event::close(port);
    arch::irq_on();
    outcome
}

/// Takes what is there.
fn drain() {
    for _ in 0..8 {
        match plic::claim() {
            0 => return,
            source => plic::complete(source),
        }
    }
}

fn is_signalled() -> bool {
    arch::is_pending(interrupt::EXTERNAL)
}

fn claimed_once() -> Outcome {
    with_event(|source, raise| {
        ensure!(!is_signalled(), "before");
        raise();
        ensure!(is_signalled(), "not signalled");
        ensure!(plic::is_pending(source), "not pending");
        expect!(plic::claim(), source);
        ensure!(!is_signalled(), "signalled once claimed");
        ensure!(!plic::is_pending(source), "pending once claimed");
        expect!(plic::claim(), 0, "the second claim");
        plic::complete(source);
        expect!(plic::claim(), 0, "once complete");
        Ok(())
    })
}

fn disabled_waits() -> Outcome {
    with_event(|source, raise| {
        plic::disable(0, source);
        raise();
        ensure!(!is_signalled(), "signalled while disabled");
        ensure!(plic::is_pending(source), "not pending while disabled");
        expect!(plic::claim(), 0, "while disabled");
        plic::enable(0, source);
        ensure!(is_signalled(), "not signalled once enabled");
        expect!(plic::claim(), source, "once enabled");
        plic::complete(source);
        Ok(())
    })
}

fn priority_0() -> Outcome {
    with_event(|source, raise| {
        plic::set_priority(source, 0);
        raise();
        ensure!(!is_signalled(), "signalled");
        expect!(plic::claim(), 0, "with priority 0");
        plic::set_priority(source, 1);
        ensure!(is_signalled(), "not signalled with priority 1");
        expect!(plic::claim(), source, "with priority 1");
        plic::complete(source);
        Ok(())
    })
}

fn threshold() -> Outcome {
    with_event(|source, raise| {
        plic::set_priority(source, 3);
        plic::set_threshold(3);
        raise();
        ensure!(!is_signalled(), "signalled at the threshold");
        plic::set_threshold(2);
        ensure!(is_signalled(), "not signalled above it");
        plic::set_threshold(MOST_PRIORITY);
        ensure!(!is_signalled(), "signalled with the highest threshold");
        plic::set_threshold(0);
        expect!(plic::claim(), source);
        plic::complete(source);
        Ok(())
    })
}

/// It comes again, after the completion at the latest.
fn raised_again() -> Outcome {
    with_event(|source, raise| {
        raise();
        expect!(plic::claim(), source, "the first");
        raise();
        value("plic.signalled_while_served", i64::from(is_signalled()));
        plic::complete(source);
        ensure!(is_signalled(), "not signalled again");
        expect!(plic::claim(), source, "the second");
        plic::complete(source);
        expect!(plic::claim(), 0);
        Ok(())
    })
}

/// A completion at a context where the source is not enabled does nothing.
fn completes() -> Outcome {
    with_event(|source, raise| {
        raise();
        expect!(plic::claim(), source);
        if arch::cpu_count() > 1 {
            arch::write32(plic::context(1, reg::CLAIM), source);
        }
        raise();
        plic::complete(source);
        expect!(plic::claim(), source, "raised again");
        plic::complete(source);
        Ok(())
    })
}
