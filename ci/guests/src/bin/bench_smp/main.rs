//! Figures that take two vCPUs. Two ways to run it:
//!
//! - two vCPUs on one physical CPU, under `-icount shift=0,sleep=off` (on Xen: `dom0_max_vcpus=2` with
//!   `-smp 1`): both yield in turn, and the counter counts instructions: `yield_switch` is one
//!   switch from one vCPU to the other;
//! - two vCPUs on two physical CPUs: QEMU 7.2's icount cannot run those, so the figures are counter
//!   ticks of wall time, good only as a ratio of paired runs on the same machine:
//!   `ipi_round_trip` and `event_round_trip` between the vCPUs, the best of many rounds and the median
//!   (1,001 rounds, or what five seconds allow).
//!
//! Which one this is, the command line says: `cpus=1` (the default) or `cpus=2`.
#![no_std]
#![no_main]

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use xenolith_guests::buffer::Page;
use xenolith_guests::report::{Report, value};
use xenolith_guests::xen::{event, sched, shared};
use xenolith_guests::{arch, bootargs, cpus, guest};

guest!(main);

const LOOPS: u64 = 4096;
const ROUNDS: usize = 1001;
static TURNS: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];
static STOP: AtomicU32 = AtomicU32::new(0);
static PORTS: [AtomicU32; 2] = [const { AtomicU32::new(0) }; 2];

fn main() {
    let report = Report::begin("bench_smp");
    if arch::cpu_count() < 2 {
        value("needs_two_vcpus", 1);
        report.finish();
    }
    arch::irq_on();
    let (errno, online) = cpus::start(1);
    value("second_vcpu_started", i64::from(errno == 0 && online));
    if bootargs::number("cpus", 1) == 1 {
        one_cpu()
    } else {
        two_cpus()
    }
    report.finish()
}

fn seen() {
    TURNS[arch::cpu_index()].fetch_add(1, Ordering::SeqCst);
}

fn turns(index: usize) -> u64 {
    TURNS[index].load(Ordering::SeqCst)
}

/// Both vCPUs yield all the time; what both did together is the number of switches.
fn one_cpu() {
    cpus::begin(1, |own| {
        while STOP.load(Ordering::Relaxed) == 0 {
            TURNS[own].fetch_add(1, Ordering::Relaxed);
            sched::yield_now();
        }
    });
    while turns(1) < 16 {
        sched::yield_now();
    }
    let (first, start) = (turns(1), arch::now());
    for _ in 0..LOOPS {
        sched::yield_now();
    }
    let ticks = arch::now() - start;
    let others = turns(1) - first;
    STOP.store(1, Ordering::Relaxed);
    while !cpus::is_idle(1) {
        sched::yield_now();
    }
    let nanoseconds = ticks * (1_000_000_000 / arch::ticks_per_second());
    value("yields_of_the_other", others as i64);
    value("yield_switch", (nanoseconds / (LOOPS + others)) as i64);
}

fn two_cpus() {
    cpus::run(1, |_| arch::on_ipi(ipi));
    arch::on_ipi(ipi);
    round_trips("ipi_round_trip", || arch::ipi_send(1));
    shared::page();
    for (index, slot) in PORTS.iter().enumerate() {
        slot.store(
            event::bind_ipi(index as u32).unwrap_or(0),
            Ordering::Relaxed,
        );
        shared::clear_mask(port(index));
    }
    cpus::run(1, |own| {
        shared::register_vcpu_info(own, Page::take(), 0);
        arch::on_event(upcall);
    });
    arch::on_event(upcall);
    round_trips("event_round_trip", || {
        event::send(port(1));
    });
}

/// CPU 1 answers, CPU 0 counts.
fn ipi(_line: u32) {
    if arch::cpu_index() == 0 {
        seen()
    } else {
        arch::ipi_send(0)
    }
}

fn upcall(_line: u32) {
    let own = arch::cpu_index();
    shared::take_upcall(own);
    if !shared::clear_pending(port(own)) {
        return;
    }
    if own == 0 {
        seen();
    } else {
        event::send(port(0));
    }
}

fn port(index: usize) -> u32 {
    PORTS[index].load(Ordering::Relaxed)
}

/// Prints the best and the median of many rounds, in nanoseconds of wall time.
fn round_trips(name: &str, signal: impl Fn()) {
    let mut times = [0u64; ROUNDS];
    let mut rounds = 0;
    let enough = arch::now() + 5 * arch::ticks_per_second();
    for time in &mut times {
        if arch::now() > enough {
            break;
        }
        rounds += 1;
        let before = turns(0);
        let start = arch::now();
        signal();
        if !cpus::wait_for(|| turns(0) != before) {
            value(format_args!("{name}_lost"), 1);
            return;
        }
        *time = arch::now() - start;
    }
    let times = &mut times[..rounds];
    times.sort_unstable();
    let nanoseconds = |ticks: u64| (ticks * 1_000_000_000 / arch::ticks_per_second()) as i64;
    value(format_args!("{name}_rounds"), rounds as i64);
    value(format_args!("{name}_best_ns"), nanoseconds(times[0]));
    value(
        format_args!("{name}_median_ns"),
        nanoseconds(times[rounds / 2]),
    );
}
