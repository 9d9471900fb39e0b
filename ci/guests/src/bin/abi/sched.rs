//! `sched_op`.

use xenolith_guests::report::value;
use xenolith_guests::xen::errno::{EINVAL, ENOSYS, ESRCH};
use xenolith_guests::xen::{call, event, nr, sched, shared};
use xenolith_guests::{arch, ensure, expect};

use super::event::must;
use super::vcpu::system_time_at_last_switch;
use super::{Case, Outcome};

pub(crate) const CASES: &[Case] = &[
    ("sched.yield", yield_now),
    ("sched.block_ends_with_an_interrupt", block),
    ("sched.poll_ends_with_its_timeout", poll_timeout),
    ("sched.poll_refuses", poll_refuses),
    ("sched.watchdog", watchdog),
    ("sched.remote_shutdown_refuses", remote_shutdown),
    ("sched.pin_override", pin_override),
    ("sched.unknown", unknown),
];

fn yield_now() -> Outcome {
    for _ in 0..100 {
        expect!(sched::yield_now(), 0);
    }
    Ok(())
}

/// Blocks for a millisecond of the timer.
pub(crate) fn block_for_a_millisecond() -> Outcome {
    expect!(arch::block_for(arch::ticks_per_second() / 1000), 0, "block");
    Ok(())
}

fn block() -> Outcome {
    for _ in 0..10 {
        block_for_a_millisecond()?;
    }
    Ok(())
}

fn poll_timeout() -> Outcome {
    let port = must("bind_ipi", event::bind_ipi(0))?;
    shared::mask(port);
    shared::clear_pending(port);
    // Before the time that the deadline counts from, so that a machine that stood still meanwhile makes no difference.
    let start = arch::now();
    block_for_a_millisecond()?;
    let base = system_time_at_last_switch()?;
    expect!(sched::poll(&[port], base + 20_000_000), 0);
    let waited = arch::now() - start;
    ensure!(
        waited >= arch::ticks_per_second() / 50,
        "after {waited} ticks"
    );
    expect!(sched::poll(&[], base + 21_000_000), 0, "no ports");
    expect!(event::close(port), 0);
    Ok(())
}

fn poll_refuses() -> Outcome {
    let ports = [0u32; 129];
    expect!(sched::poll(&ports, 1), EINVAL, "too many ports");
    expect!(sched::poll(&[0x7fff_ffff], 1), EINVAL, "no such port");
    Ok(())
}

/// Sets the watchdog far in the future and takes it back.
fn watchdog() -> Outcome {
    let set = |id: u32, timeout: u32| call(nr::SCHED_OP, sched::op::WATCHDOG, &mut [id, timeout]);
    let id = set(0, 1000);
    ensure!(id > 0, "set: {id}");
    value("sched.watchdog_id", id);
    expect!(set(id as u32, 1000), 0, "set again");
    expect!(set(id as u32, 0), 0, "clear");
    expect!(set(99, 10), EINVAL, "no such one");
    Ok(())
}

fn remote_shutdown() -> Outcome {
    expect!(
        call(
            nr::SCHED_OP,
            sched::op::REMOTE_SHUTDOWN,
            &mut [1234u16, 0, 0, 0]
        ),
        ESRCH
    );
    Ok(())
}

fn pin_override() -> Outcome {
    for (cpu, wanted) in [
        (-1i32, EINVAL),
        (0, 0),
        (-1, 0),
        (4000, EINVAL),
        (-5, EINVAL),
    ] {
        let errno = call(nr::SCHED_OP, sched::op::PIN_OVERRIDE, &mut { cpu });
        expect!(errno, wanted, "cpu {cpu}");
    }
    Ok(())
}

fn unknown() -> Outcome {
    for sub in [8, 9, 63, 0x7fff_ffff] {
        let mut nothing = 0u64;
        expect!(
            call(nr::SCHED_OP, sub, &mut nothing),
            ENOSYS,
            "sub-op {sub}"
        );
    }
    Ok(())
}
