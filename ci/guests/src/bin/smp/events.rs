//! Event channels between the vCPUs of one domain.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use xenolith_guests::arch::{self, MAX_CPUS};
use xenolith_guests::buffer::Page;
use xenolith_guests::report::Outcome;
use xenolith_guests::xen::errno::{EINVAL, ENOENT};
use xenolith_guests::xen::{SELF, event, shared};
use xenolith_guests::{cpus, ensure, expect};

type Case = (&'static str, fn() -> Outcome);

pub(crate) const CASES: &[Case] = &[
    ("event.vcpu_info_of_every_vcpu", register),
    ("event.ipi_to_every_vcpu", ipi_to_every_vcpu),
    ("event.ipi_from_every_vcpu", ipi_from_every_vcpu),
    ("event.bind_vcpu_moves_a_port", bind_vcpu_moves),
    ("event.all_cpus_alloc_send_close", hammer),
];

static PORTS: [AtomicU32; MAX_CPUS] = [const { AtomicU32::new(0) }; MAX_CPUS];
static COUNT: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];
static MOVING: AtomicU32 = AtomicU32::new(0);
static MOVED_TO: AtomicU64 = AtomicU64::new(0);
static FAILED: AtomicU64 = AtomicU64::new(0);
const ROUNDS: u64 = 200;

fn port(index: usize) -> u32 {
    PORTS[index].load(Ordering::Relaxed)
}

fn count(index: usize) -> u64 {
    COUNT[index].load(Ordering::SeqCst)
}

fn upcall(_line: u32) {
    let own = arch::cpu_index();
    shared::take_upcall(own);
    if shared::clear_pending(port(own)) {
        COUNT[own].fetch_add(1, Ordering::SeqCst);
    }
    let moving = MOVING.load(Ordering::SeqCst);
    if moving != 0 && shared::clear_pending(moving) {
        MOVED_TO.store(own as u64 + 1, Ordering::SeqCst);
    }
}

/// A running vCPU's area can be set by that vCPU only.
fn register() -> Outcome {
    shared::page();
    // A case before may have moved one, which is possible once.
    let unmoved = |index: &usize| arch::IS_TRANSLATED || !shared::has_moved(*index);
    for index in cpus::others().filter(unmoved) {
        expect!(
            shared::register_vcpu_info(index, Page::take(), 0),
            EINVAL,
            "from another vcpu"
        );
        ensure!(
            cpus::run(index, |own| {
                let errno = shared::register_vcpu_info(own, Page::take(), 64 * own as u32);
                FAILED.store(errno as u64, Ordering::SeqCst);
            }),
            "cpu {index} hangs"
        );
        expect!(FAILED.load(Ordering::SeqCst), 0, "vcpu_info of {index}");
        let errno = shared::register_vcpu_info(arch::cpu_count() + 1, Page::take(), 0);
        expect!(errno, ENOENT, "vcpu_info of nobody");
    }
    Ok(())
}

fn ipi_to_every_vcpu() -> Outcome {
    for index in 0..arch::cpu_count() {
        let bound = event::bind_ipi(index as u32);
        ensure!(bound.is_ok(), "bind_ipi: {bound:?}");
        PORTS[index].store(bound.unwrap_or(0), Ordering::Relaxed);
        shared::clear_mask(port(index));
        if index == 0 {
            arch::on_event(upcall);
        } else {
            ensure!(
                cpus::run(index, |_| arch::on_event(upcall)),
                "cpu {index} hangs"
            );
        }
    }
    for index in 0..arch::cpu_count() {
        for _ in 0..ROUNDS {
            let before = count(index);
            expect!(event::send(port(index)), 0);
            ensure!(
                cpus::wait_for(|| count(index) == before + 1),
                "vcpu {index} got no event"
            );
        }
    }
    Ok(())
}

fn ipi_from_every_vcpu() -> Outcome {
    for index in cpus::others() {
        let before = count(0);
        ensure!(
            cpus::run(index, |_| {
                event::send(port(0));
            }),
            "cpu {index} hangs"
        );
        ensure!(
            cpus::wait_for(|| count(0) == before + 1),
            "no event from vcpu {index}"
        );
    }
    Ok(())
}

fn bind_vcpu_moves() -> Outcome {
    let Ok(end) = event::alloc_unbound(SELF, SELF) else {
        return event_failed("alloc_unbound");
    };
    let Ok(local) = event::bind_interdomain(SELF, end) else {
        return event_failed("bind");
    };
    // Binding leaves the local port pending.
    ensure!(shared::clear_pending(local), "not pending after the bind");
    MOVING.store(local, Ordering::SeqCst);
    shared::clear_mask(local);
    for index in 0..arch::cpu_count() {
        MOVED_TO.store(0, Ordering::SeqCst);
        expect!(event::bind_vcpu(local, index as u32), 0);
        expect!(event::send(end), 0);
        ensure!(
            cpus::wait_for(|| MOVED_TO.load(Ordering::SeqCst) != 0),
            "lost on vcpu {index}"
        );
        expect!(MOVED_TO.load(Ordering::SeqCst), index as u64 + 1);
    }
    MOVING.store(0, Ordering::SeqCst);
    expect!(event::close(local), 0);
    expect!(event::close(end), 0);
    Ok(())
}

fn event_failed(what: &str) -> Outcome {
    ensure!(false, "{what} failed");
    Ok(())
}

/// All CPUs allocate, bind, signal and close ports of their own at once; no CPU sees another's.
fn hammer() -> Outcome {
    fn work(_own: usize) {
        for _ in 0..ROUNDS {
            let Ok(end) = event::alloc_unbound(SELF, SELF) else {
                FAILED.fetch_add(1, Ordering::SeqCst);
                continue;
            };
            shared::mask(end);
            let local = event::bind_interdomain(SELF, end).unwrap_or(0);
            shared::mask(local);
            shared::clear_pending(end);
            let good = event::send(local) == 0
                && shared::clear_pending(end)
                && event::close(local) == 0
                && event::close(end) == 0;
            if !good {
                FAILED.fetch_add(1, Ordering::SeqCst);
            }
        }
    }
    for index in cpus::others() {
        cpus::begin(index, work);
    }
    work(0);
    for index in cpus::others() {
        ensure!(cpus::wait_for(|| cpus::is_idle(index)), "cpu {index} hangs");
    }
    expect!(FAILED.load(Ordering::SeqCst), 0);
    Ok(())
}
