//! Figures that take two vCPUs. With one processor in the machine they share it, with two each has its own
//! (`cpus=1` or `cpus=2` says so; without the word the guest takes a counter that counts instructions for one):
//!
//! - one processor (on Xen: `dom0_max_vcpus=2` with `-smp 1`): both yield in turn, and `yield_switch` is one switch
//!   from one vCPU to the other;
//! - two processors: `cross_cpu_ipi` and `cross_cpu_event` are half of the best round trip of 1,001 (or what five
//!   seconds allow), in nanoseconds. Under `-icount` a nanosecond is an instruction, and the emulator runs the CPUs in
//!   turn, the next one when this one waits (YIELD): the figure is what both CPUs together execute for one signal. Without
//!   `-icount` it is wall time, good only as a ratio of paired runs on the same machine; the medians tell how much
//!   the machine was disturbed.
#![no_std]
#![no_main]

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use xenolith_guests::buffer::Page;
use xenolith_guests::report::{Report, value};
use xenolith_guests::xen::{event, sched, shared};
use xenolith_guests::{arch, bootargs, count, cpus, guest};

guest!(main);

const LOOPS: u64 = 4096;
const ROUNDS: usize = 1001;
static TURNS: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];
static STOP: AtomicU32 = AtomicU32::new(0);
static PORTS: [AtomicU32; 2] = [const { AtomicU32::new(0) }; 2];

fn main() {
    let report = Report::begin("bench-smp");
    if arch::cpu_count() < 2 {
        value("needs_two_vcpus", 1);
        report.finish();
    }
    let counts = counts_instructions();
    count::calibrate();
    arch::irq_on();
    let (errno, online) = cpus::start(1);
    value("second_vcpu_started", i64::from(errno == 0 && online));
    let two = match bootargs::number("cpus", 0) {
        0 => !counts,
        count => count > 1,
    };
    if two {
        two_cpus()
    } else {
        one_cpu()
    }
    report.finish()
}

fn seen() {
    TURNS[arch::cpu_index()].fetch_add(1, Ordering::SeqCst);
}

fn turns(index: usize) -> u64 {
    TURNS[index].load(Ordering::SeqCst)
}

/// Whether the counter counts instructions: the same loop then takes the same time again and again.
fn counts_instructions() -> bool {
    const RUNS: usize = 20;
    let mut times = [0u64; RUNS];
    for time in &mut times {
        let start = arch::now();
        for turn in 0..100_000u64 {
            core::hint::black_box(turn);
        }
        *time = arch::now() - start;
    }
    times.sort_unstable();
    let middle = times[RUNS / 2];
    times
        .iter()
        .filter(|time| time.abs_diff(middle) <= 2)
        .count()
        > RUNS / 2
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
    value("yields_of_the_other", others as i64);
    value(
        "yield_switch",
        (count::instructions(ticks) / (LOOPS + others)) as i64,
    );
}

fn two_cpus() {
    cpus::run(1, |_| arch::on_ipi(ipi));
    arch::on_ipi(ipi);
    round_trips("cross_cpu_ipi", || arch::ipi_send(1));
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
    round_trips("cross_cpu_event", || {
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

/// Prints half of the best round trip, and of the median one.
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
    value(name, nanoseconds(times[0]) / 2);
    value(
        format_args!("{name}_median"),
        nanoseconds(times[rounds / 2]) / 2,
    );
}
