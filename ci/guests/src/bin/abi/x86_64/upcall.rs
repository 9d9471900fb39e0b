//! Both ways in which an event reaches a PVH guest: the domain's callback vector, injected past the local APIC for as
//! long as the upcall is pending, and the vCPU's own vector through its APIC, once for each upcall.

use core::sync::atomic::{AtomicU64, Ordering};

use xenolith_guests::arch::{self, apic};
use xenolith_guests::report::{Why, value};
use xenolith_guests::xen::errno::{EINVAL, ENOENT};
use xenolith_guests::xen::{event, hvm, shared};
use xenolith_guests::{cpus, ensure, expect};

use crate::event::must;
use crate::{Case, Outcome};

pub(crate) const CASES: &[Case] = &[
    ("vector.of_the_vcpu", of_the_vcpu),
    ("vector.of_the_vcpu_waits_for_its_end", waits_for_end),
    ("vector.refuses", refuses),
    ("vector.of_the_domain", of_the_domain),
    ("vector.of_the_domain_comes_until_taken", until_taken),
    ("vector.callback_kinds", kinds),
];

const CALLBACK: u8 = 0x81;
const VECTOR: u8 = 0x82;
static COUNT: AtomicU64 = AtomicU64::new(0);
static LEAVE: AtomicU64 = AtomicU64::new(0);

fn count() -> u64 {
    COUNT.load(Ordering::SeqCst)
}

/// Leaves the upcall pending so many times before it takes it.
fn upcall(_vector: u32) {
    COUNT.fetch_add(1, Ordering::SeqCst);
    if LEAVE.load(Ordering::SeqCst) == 0 {
        shared::take_upcall(0);
    } else {
        LEAVE.fetch_sub(1, Ordering::SeqCst);
    }
}

/// An open IPI port of vCPU 0 with nothing pending.
fn port() -> Result<u32, Why> {
    shared::page();
    arch::irq_off();
    shared::take_upcall(0);
    let port = must("bind_ipi", event::bind_ipi(0))?;
    shared::clear_pending(port);
    shared::clear_mask(port);
    Ok(port)
}

fn close(port: u32) -> Outcome {
    arch::irq_off();
    shared::mask(port);
    shared::clear_pending(port);
    shared::take_upcall(0);
    expect!(event::close(port), 0);
    Ok(())
}

/// Back to what the runtime uses.
fn restore() -> Outcome {
    arch::this_cpu().upcall.store(0, Ordering::Relaxed);
    arch::on_event(|_| {
        shared::take_upcall(0);
    });
    arch::irq_on();
    arch::irq_off();
    Ok(())
}

fn signals_arrive(port: u32) -> Outcome {
    arch::irq_on();
    for _ in 0..10 {
        let before = count();
        expect!(event::send(port), 0);
        ensure!(cpus::wait_for(|| count() > before), "no upcall");
        expect!(count(), before + 1, "upcalls");
        ensure!(shared::clear_pending(port), "the port is not pending");
    }
    arch::irq_off();
    Ok(())
}

fn of_the_vcpu() -> Outcome {
    let port = port()?;
    apic::on_vector(VECTOR, upcall);
    expect!(hvm::set_upcall_vector(0, VECTOR), 0);
    // Registering may itself raise the vector.
    value(
        "vector.pending_once_registered",
        i64::from(apic::bit(apic::reg::IRR, VECTOR)),
    );
    arch::irq_on();
    arch::irq_off();
    expect!(event::send(port), 0);
    ensure!(apic::bit(apic::reg::IRR, VECTOR), "not in the APIC's IRR");
    arch::irq_on();
    ensure!(cpus::wait_for(|| !shared::upcall_pending(0)), "no upcall");
    arch::irq_off();
    shared::clear_pending(port);
    signals_arrive(port)?;
    close(port)?;
    restore()
}

/// While the vector is in service, another of its kind waits in the IRR.
fn waits_for_end() -> Outcome {
    let port = port()?;
    static SEEN: AtomicU64 = AtomicU64::new(0);
    SEEN.store(0, Ordering::SeqCst);
    static PORT: AtomicU64 = AtomicU64::new(0);
    PORT.store(u64::from(port), Ordering::SeqCst);
    apic::on_vector(VECTOR, |_| {
        let port = PORT.load(Ordering::SeqCst) as u32;
        shared::take_upcall(0);
        if shared::clear_pending(port) && SEEN.fetch_add(1, Ordering::SeqCst) == 0 {
            event::send(port);
            let in_service = apic::bit(apic::reg::ISR, VECTOR);
            let requested = apic::bit(apic::reg::IRR, VECTOR);
            SEEN.fetch_or(
                u64::from(in_service) << 32 | u64::from(requested) << 33,
                Ordering::SeqCst,
            );
        }
    });
    expect!(hvm::set_upcall_vector(0, VECTOR), 0);
    arch::irq_on();
    expect!(event::send(port), 0);
    ensure!(
        cpus::wait_for(|| SEEN.load(Ordering::SeqCst) & 3 == 2),
        "{:#x}",
        SEEN.load(Ordering::SeqCst)
    );
    arch::irq_off();
    expect!(
        SEEN.load(Ordering::SeqCst) >> 32,
        3,
        "in service and requested"
    );
    close(port)?;
    restore()
}

fn refuses() -> Outcome {
    for vector in [0, 1, 15] {
        expect!(hvm::set_upcall_vector(0, vector), EINVAL, "vector {vector}");
    }
    expect!(hvm::set_upcall_vector(4000, VECTOR), ENOENT, "no such vcpu");
    Ok(())
}

/// The callback vector counts for vCPUs that have none of their own, so one is taken whose own is off.
fn by_callback() -> Outcome {
    let via = 2 << 56 | u64::from(CALLBACK);
    expect!(hvm::set_param(hvm::PARAM_CALLBACK_IRQ, via), 0);
    expect!(hvm::get_param(hvm::PARAM_CALLBACK_IRQ), Ok(via));
    apic::on_vector(CALLBACK, |vector| {
        upcall(vector);
    });
    Ok(())
}

fn of_the_domain() -> Outcome {
    let port = port()?;
    by_callback()?;
    apic::on_vector(VECTOR, |_| {});
    expect!(event::send(port), 0);
    ensure!(
        !apic::bit(apic::reg::IRR, CALLBACK),
        "it went through the APIC"
    );
    arch::irq_on();
    ensure!(cpus::wait_for(|| !shared::upcall_pending(0)), "no upcall");
    arch::irq_off();
    shared::clear_pending(port);
    signals_arrive(port)?;
    expect!(hvm::set_param(hvm::PARAM_CALLBACK_IRQ, 0), 0);
    close(port)?;
    restore()
}

fn until_taken() -> Outcome {
    let port = port()?;
    by_callback()?;
    LEAVE.store(3, Ordering::SeqCst);
    let before = count();
    expect!(event::send(port), 0);
    arch::irq_on();
    let taken = cpus::wait_for(|| !shared::upcall_pending(0));
    arch::irq_off();
    LEAVE.store(0, Ordering::SeqCst);
    ensure!(taken, "not taken after {} upcalls", count() - before);
    expect!(count() - before, 4, "upcalls");
    expect!(hvm::set_param(hvm::PARAM_CALLBACK_IRQ, 0), 0);
    close(port)?;
    restore()
}

fn kinds() -> Outcome {
    for (name, via) in [
        ("none", 0),
        ("line_9", 9),
        ("line_200", 200),
        ("pci", 1 << 56 | 3 << 11),
        ("vector_16", 2 << 56 | 16),
        ("vector_0", 2 << 56),
        ("vector_15", 2 << 56 | 15),
        ("kind_3", 3 << 56 | 1),
        ("kind_255", 255 << 56 | 1),
    ] {
        value(
            format_args!("vector.callback_{name}"),
            hvm::set_param(hvm::PARAM_CALLBACK_IRQ, via),
        );
    }
    expect!(hvm::set_param(hvm::PARAM_CALLBACK_IRQ, 0), 0);
    restore()
}
