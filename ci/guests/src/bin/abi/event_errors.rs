//! Event channels: what is refused, and how; and reset, which closes all.

use xenolith_guests::report::value;
use xenolith_guests::xen::errno::{EEXIST, EINVAL, ENOENT, ESRCH};
use xenolith_guests::xen::{SELF, call, event, nr, shared};
use xenolith_guests::{ensure, expect};

use super::event::{must, pair};
use super::{Case, Outcome};

pub(crate) const CASES: &[Case] = &[
    ("event_errors.ports_that_are_not", bad_ports),
    ("event_errors.domains_that_are_not", bad_domains),
    ("event_errors.binding_what_is_not_unbound", bad_binds),
    ("event_errors.virqs", bad_virqs),
    ("event_errors.vcpus", bad_vcpus),
    ("event_errors.bind_vcpu_of_fixed_ports", fixed_ports),
    ("event_errors.physical_interrupts", pirqs),
    ("event_errors.fifo_calls", fifo),
];
pub(crate) const LAST: &[Case] = &[("event.reset_closes_all", reset)];

const NOBODY: u16 = 1234;
const NO_PORT: u32 = 0x7fff_fff0;
const NO_VCPU: u32 = 4000;

fn bad_ports() -> Outcome {
    let closed = must("alloc_unbound", event::alloc_unbound(SELF, SELF))?;
    expect!(event::close(closed), 0);
    for port in [0, closed, NO_PORT, u32::MAX] {
        expect!(event::close(port), EINVAL, "close {port:#x}");
        expect!(event::send(port), EINVAL, "send {port:#x}");
        expect!(event::bind_vcpu(port, 0), EINVAL, "bind_vcpu {port:#x}");
        expect!(
            event::bind_interdomain(SELF, port),
            Err(EINVAL),
            "bind {port:#x}"
        );
    }
    for port in [NO_PORT, u32::MAX] {
        expect!(event::unmask(port), EINVAL, "unmask {port:#x}");
        expect!(
            event::status_of(port).map(|status| status.status),
            Err(EINVAL),
            "status {port:#x}"
        );
    }
    value("event_errors.unmask_0", event::unmask(0));
    value("event_errors.unmask_closed", event::unmask(closed));
    value(
        "event_errors.status_0",
        event::status_of(0).map_or_else(|e| e, |s| i64::from(s.status)),
    );
    Ok(())
}

fn bad_domains() -> Outcome {
    expect!(event::alloc_unbound(NOBODY, SELF), Err(ESRCH));
    expect!(event::bind_interdomain(NOBODY, 1), Err(ESRCH));
    expect!(
        event::status_in(NOBODY, 1).map(|status| status.status),
        Err(ESRCH)
    );
    expect!(event::reset(NOBODY), ESRCH);
    // A Xen built without security modules does not look who may bind.
    match event::alloc_unbound(SELF, NOBODY) {
        Ok(port) => expect!(event::close(port), 0),
        Err(errno) => expect!(errno, ESRCH, "unbound for nobody"),
    }
    Ok(())
}

fn bad_binds() -> Outcome {
    let (end, local) = pair()?;
    for port in [end, local] {
        expect!(
            event::bind_interdomain(SELF, port),
            Err(EINVAL),
            "an interdomain port"
        );
    }
    let ipi = must("bind_ipi", event::bind_ipi(0))?;
    expect!(
        event::bind_interdomain(SELF, ipi),
        Err(EINVAL),
        "an IPI port"
    );
    for port in [ipi, local, end] {
        expect!(event::close(port), 0);
    }
    Ok(())
}

fn bad_virqs() -> Outcome {
    for virq in [24, 25, 99, u32::MAX] {
        expect!(event::bind_virq(virq, 0), Err(EINVAL), "virq {virq}");
    }
    let port = must("bind_virq", event::bind_virq(event::virq::DEBUG, 0))?;
    expect!(
        event::bind_virq(event::virq::DEBUG, 0),
        Err(EEXIST),
        "twice"
    );
    expect!(event::send(port), EINVAL, "send to a virq port");
    expect!(event::close(port), 0);
    expect!(
        event::bind_virq(event::virq::DEBUG, NO_VCPU),
        Err(ENOENT),
        "vcpu that is not"
    );
    expect!(
        event::bind_virq(event::virq::DOM_EXC, 1),
        Err(EINVAL),
        "a global one on vcpu 1"
    );
    Ok(())
}

fn bad_vcpus() -> Outcome {
    expect!(event::bind_ipi(NO_VCPU), Err(ENOENT));
    let (end, local) = pair()?;
    expect!(event::bind_vcpu(end, NO_VCPU), ENOENT);
    expect!(event::close(local), 0);
    expect!(event::close(end), 0);
    Ok(())
}

fn fixed_ports() -> Outcome {
    let ipi = must("bind_ipi", event::bind_ipi(0))?;
    expect!(event::bind_vcpu(ipi, 0), EINVAL, "an IPI port");
    expect!(event::close(ipi), 0);
    let timer = must("bind_virq", event::bind_virq(event::virq::TIMER, 0))?;
    expect!(event::bind_vcpu(timer, 0), EINVAL, "a per-vcpu virq");
    expect!(event::close(timer), 0);
    Ok(())
}

fn pirqs() -> Outcome {
    for pirq in [0, 40, 5000, u32::MAX] {
        let errno = call(
            nr::EVENT_CHANNEL_OP,
            event::op::BIND_PIRQ,
            &mut [pirq, 0, 0],
        );
        value(format_args!("event_errors.bind_pirq_{pirq}"), errno);
    }
    Ok(())
}

/// The FIFO ABI with arguments that it refuses, so that the domain keeps its two-level bitmaps.
fn fifo() -> Outcome {
    let mut init = [0u64, u64::from(NO_VCPU) << 32, 0];
    value(
        "event_errors.fifo_init_vcpu",
        call(nr::EVENT_CHANNEL_OP, event::op::INIT_CONTROL, &mut init),
    );
    let mut init = [0u64, 4090, 0];
    value(
        "event_errors.fifo_init_offset",
        call(nr::EVENT_CHANNEL_OP, event::op::INIT_CONTROL, &mut init),
    );
    let errno = call(nr::EVENT_CHANNEL_OP, event::op::EXPAND_ARRAY, &mut [0u64]);
    value("event_errors.fifo_expand", errno);
    let errno = call(
        nr::EVENT_CHANNEL_OP,
        event::op::SET_PRIORITY,
        &mut [1u32, 99],
    );
    value("event_errors.fifo_priority", errno);
    Ok(())
}

fn reset() -> Outcome {
    let (end, local) = pair()?;
    let ipi = must("bind_ipi", event::bind_ipi(0))?;
    let virq = must("bind_virq", event::bind_virq(event::virq::DEBUG, 0))?;
    shared::mask(ipi);
    expect!(event::send(ipi), 0);
    expect!(event::reset(SELF), 0);
    for port in [end, local, ipi, virq] {
        expect!(
            must("status", event::status_of(port))?.status,
            event::status::CLOSED,
            "port {port}"
        );
        ensure!(!shared::is_pending(port), "port {port} is still pending");
    }
    let first = must("alloc_unbound", event::alloc_unbound(SELF, SELF))?;
    expect!(first, 1, "first port after a reset");
    expect!(event::close(first), 0);
    Ok(())
}
