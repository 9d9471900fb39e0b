//! Interrupts from CPU to CPU.

use core::sync::atomic::{AtomicU64, Ordering};

use xenolith_guests::arch::{self, MAX_CPUS};
use xenolith_guests::report::Outcome;
use xenolith_guests::{cpus, ensure};

type Case = (&'static str, fn() -> Outcome);

pub(crate) const CASES: &[Case] = &[
    ("ipi.to_every_cpu", to_every_cpu),
    ("ipi.from_every_cpu", from_every_cpu),
    ("ipi.wakes_a_sleeping_cpu", wakes_a_sleeper),
    ("ipi.ping_pong_1000", ping_pong),
    ("ipi.all_to_all", all_to_all),
];

static COUNT: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];
static AWAITED: AtomicU64 = AtomicU64::new(0);
const ROUNDS: u64 = 1000;

fn count(index: usize) -> u64 {
    COUNT[index].load(Ordering::SeqCst)
}

fn handler(_line: u32) {
    COUNT[arch::cpu_index()].fetch_add(1, Ordering::SeqCst);
}

pub(crate) fn prepare() {
    arch::on_ipi(handler);
    arch::irq_on();
}

fn to_every_cpu() -> Outcome {
    for index in cpus::others() {
        ensure!(
            cpus::run(index, |_| arch::on_ipi(handler)),
            "cpu {index} hangs"
        );
        let before = count(index);
        arch::ipi_send(index);
        ensure!(
            cpus::wait_for(|| count(index) == before + 1),
            "cpu {index} got no interrupt"
        );
    }
    Ok(())
}

fn from_every_cpu() -> Outcome {
    for index in cpus::others() {
        let before = count(0);
        ensure!(cpus::run(index, |_| arch::ipi_send(0)), "cpu {index} hangs");
        ensure!(
            cpus::wait_for(|| count(0) == before + 1),
            "no interrupt from cpu {index}"
        );
    }
    Ok(())
}

fn wakes_a_sleeper() -> Outcome {
    for index in cpus::others() {
        AWAITED.store(count(index) + 1, Ordering::SeqCst);
        cpus::begin(index, |own| {
            arch::irq_off();
            while count(own) < AWAITED.load(Ordering::SeqCst) {
                arch::wait_and_take();
            }
            arch::irq_on();
        });
        let soon = arch::now() + arch::ticks_per_second() / 1000;
        cpus::wait_for(|| arch::now() > soon);
        ensure!(!cpus::is_idle(index), "cpu {index} woke by itself");
        arch::ipi_send(index);
        ensure!(
            cpus::wait_for(|| cpus::is_idle(index)),
            "cpu {index} sleeps on"
        );
    }
    Ok(())
}

fn ping_pong() -> Outcome {
    let (mine, its) = (count(0), count(1));
    AWAITED.store(its, Ordering::SeqCst);
    cpus::begin(1, |own| {
        let start = AWAITED.load(Ordering::SeqCst);
        for round in 1..=ROUNDS {
            if !cpus::wait_for(|| count(own) >= start + round) {
                return;
            }
            arch::ipi_send(0);
        }
    });
    for round in 1..=ROUNDS {
        arch::ipi_send(1);
        ensure!(
            cpus::wait_for(|| count(0) >= mine + round),
            "no answer in round {round}"
        );
    }
    ensure!(cpus::wait_for(|| cpus::is_idle(1)), "cpu 1 hangs");
    ensure!(
        count(0) == mine + ROUNDS && count(1) == its + ROUNDS,
        "interrupts were lost or made up"
    );
    Ok(())
}

/// Every CPU interrupts every CPU, itself too, at the same time; each arrives at least once.
fn all_to_all() -> Outcome {
    let send_all: fn(usize) = |_| {
        for target in 0..arch::cpu_count() {
            arch::ipi_send(target);
        }
    };
    let before = [0, 1, 2, 3, 4, 5, 6, 7].map(count);
    for index in cpus::others() {
        cpus::begin(index, send_all);
    }
    send_all(0);
    for index in 0..arch::cpu_count() {
        ensure!(
            cpus::wait_for(|| index == 0 || cpus::is_idle(index)),
            "cpu {index} hangs"
        );
        ensure!(
            cpus::wait_for(|| count(index) > before[index]),
            "cpu {index} got nothing"
        );
    }
    Ok(())
}
