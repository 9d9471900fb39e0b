//! Event channels: ports come, are bound, carry signals, and go.

use xenolith_guests::report::{Why, value};
use xenolith_guests::xen::errno::ENOSPC;
use xenolith_guests::xen::{SELF, event, own_domain, shared};
use xenolith_guests::{ensure, expect};

use super::{Case, Outcome};

pub(crate) const CASES: &[Case] = &[
    ("event.alloc_unbound", alloc_unbound),
    ("event.the_lowest_free_port_is_given", lowest_free),
    ("event.bind_interdomain", bind_interdomain),
    (
        "event.binding_leaves_the_local_port_pending",
        binding_signals,
    ),
    ("event.close_leaves_the_other_end_unbound", close_half),
    ("event.send_sets_the_other_ends_bit", send),
    ("event.send_to_an_unbound_port_is_dropped", send_unbound),
    (
        "event.a_masked_port_stays_pending_until_unmask",
        masked_stays_pending,
    ),
    ("event.bind_virq", bind_virq),
    ("event.bind_ipi", bind_ipi),
    ("event.bind_vcpu", bind_vcpu),
    ("event.all_ports", all_ports),
];

/// Turns a call's errno into the failure of a case.
pub(crate) fn must<T>(what: &str, result: Result<T, i64>) -> Result<T, Why> {
    result.map_err(|errno| Why::new(format_args!("{what}: {errno}")))
}

/// Two ports of this domain, bound to each other, both masked and not pending.
pub(crate) fn pair() -> Result<(u32, u32), Why> {
    let end = must("alloc_unbound", event::alloc_unbound(SELF, SELF))?;
    let local = must("bind_interdomain", event::bind_interdomain(SELF, end))?;
    for port in [end, local] {
        shared::mask(port);
        shared::clear_pending(port);
    }
    Ok((end, local))
}

fn close_both(ports: (u32, u32)) -> Outcome {
    expect!(event::close(ports.1), 0, "close");
    expect!(event::close(ports.0), 0, "close");
    Ok(())
}

fn alloc_unbound() -> Outcome {
    let port = must("alloc_unbound", event::alloc_unbound(SELF, SELF))?;
    ensure!(port > 0, "port 0 was given");
    let status = must("status", event::status_of(port))?;
    expect!((status.status, status.vcpu), (event::status::UNBOUND, 0));
    expect!(status.a as u16, own_domain(), "remote domain");
    let by_number = must("status by number", event::status_in(own_domain(), port))?;
    expect!(by_number.status, event::status::UNBOUND);
    expect!(event::close(port), 0);
    let status = must("status", event::status_of(port))?;
    expect!(status.status, event::status::CLOSED);
    Ok(())
}

fn lowest_free() -> Outcome {
    let first = must("alloc_unbound", event::alloc_unbound(SELF, SELF))?;
    let second = must("alloc_unbound", event::alloc_unbound(SELF, SELF))?;
    expect!(second, first + 1);
    expect!(event::close(first), 0);
    expect!(event::alloc_unbound(SELF, SELF), Ok(first), "after a close");
    expect!(event::close(first), 0);
    expect!(event::close(second), 0);
    Ok(())
}

fn bind_interdomain() -> Outcome {
    let (end, local) = pair()?;
    for (this, other) in [(end, local), (local, end)] {
        let status = must("status", event::status_of(this))?;
        expect!(status.status, event::status::INTERDOMAIN);
        expect!(
            (status.a as u16, status.b),
            (own_domain(), other),
            "other end"
        );
    }
    close_both((end, local))
}

fn binding_signals() -> Outcome {
    let end = must("alloc_unbound", event::alloc_unbound(SELF, SELF))?;
    shared::clear_pending(end);
    let local = must("bind_interdomain", event::bind_interdomain(SELF, end))?;
    ensure!(shared::clear_pending(local), "the local end is not pending");
    ensure!(!shared::is_pending(end), "the remote end is pending");
    close_both((end, local))
}

fn close_half() -> Outcome {
    let (end, local) = pair()?;
    expect!(event::close(local), 0);
    expect!(
        must("status", event::status_of(end))?.status,
        event::status::UNBOUND
    );
    expect!(
        must("status", event::status_of(local))?.status,
        event::status::CLOSED
    );
    let again = must("bind again", event::bind_interdomain(SELF, end))?;
    close_both((end, again))
}

fn send() -> Outcome {
    let (end, local) = pair()?;
    expect!(event::send(local), 0);
    ensure!(shared::is_pending(end) && !shared::is_pending(local));
    expect!(event::send(local), 0, "when already pending");
    ensure!(shared::clear_pending(end) && !shared::is_pending(end));
    expect!(event::send(end), 0);
    ensure!(shared::clear_pending(local) && !shared::is_pending(end));
    close_both((end, local))
}

fn send_unbound() -> Outcome {
    let end = must("alloc_unbound", event::alloc_unbound(SELF, SELF))?;
    expect!(event::send(end), 0);
    ensure!(!shared::is_pending(end));
    expect!(event::close(end), 0);
    Ok(())
}

fn masked_stays_pending() -> Outcome {
    let (end, local) = pair()?;
    shared::take_upcall(0);
    expect!(event::send(local), 0);
    ensure!(
        !shared::upcall_pending(0),
        "a masked port raised the upcall"
    );
    ensure!(shared::is_pending(end));
    expect!(event::unmask(end), 0);
    ensure!(!shared::is_masked(end), "still masked");
    ensure!(shared::upcall_pending(0), "no upcall at unmask");
    let selector = shared::take_upcall(0);
    ensure!(
        selector >> (end / 64) & 1 != 0,
        "selector {selector:#x} lacks port {end}"
    );
    ensure!(shared::clear_pending(end));
    expect!(event::unmask(end), 0, "unmask again");
    ensure!(!shared::upcall_pending(0), "an upcall for nothing");
    close_both((end, local))
}

fn bind_virq() -> Outcome {
    for virq in [event::virq::TIMER, event::virq::DEBUG] {
        let port = must("bind_virq", event::bind_virq(virq, 0))?;
        let status = must("status", event::status_of(port))?;
        expect!(
            (status.status, status.vcpu, status.a),
            (event::status::VIRQ, 0, virq)
        );
        expect!(event::close(port), 0);
        let again = must("bind_virq again", event::bind_virq(virq, 0))?;
        expect!(event::close(again), 0);
    }
    Ok(())
}

fn bind_ipi() -> Outcome {
    let port = must("bind_ipi", event::bind_ipi(0))?;
    let status = must("status", event::status_of(port))?;
    expect!((status.status, status.vcpu), (event::status::IPI, 0));
    shared::mask(port);
    expect!(event::send(port), 0);
    ensure!(shared::clear_pending(port), "the signal did not arrive");
    expect!(event::close(port), 0);
    Ok(())
}

fn bind_vcpu() -> Outcome {
    let (end, local) = pair()?;
    expect!(event::bind_vcpu(local, 0), 0);
    expect!(event::bind_vcpu(end, 0), 0);
    let virq = must("bind_virq", event::bind_virq(event::virq::DEBUG, 0))?;
    value("event.bind_vcpu_of_a_debug_virq", event::bind_vcpu(virq, 0));
    expect!(event::close(virq), 0);
    close_both((end, local))
}

/// Takes ports until there are none; each carries a signal in its own bit.
fn all_ports() -> Outcome {
    let first = must("alloc_unbound", event::alloc_unbound(SELF, SELF))?;
    let mut last = first;
    let errno = loop {
        match event::alloc_unbound(SELF, SELF) {
            Ok(port) => {
                expect!(port, last + 1);
                last = port;
            }
            Err(errno) => break errno,
        }
    };
    value("event.last_port", i64::from(last));
    expect!(errno, ENOSPC);
    expect!(event::close(first), 0);
    for target in [first + 1, first + 70, (first + last) / 2, last] {
        let local = must("bind_interdomain", event::bind_interdomain(SELF, target))?;
        shared::mask(local);
        shared::mask(target);
        expect!(event::send(local), 0);
        ensure!(shared::clear_pending(target), "no signal at port {target}");
        expect!(event::close(local), 0);
    }
    for port in first + 1..=last {
        expect!(event::close(port), 0);
    }
    Ok(())
}
