//! The timer of each CPU.

use core::sync::atomic::{AtomicU64, Ordering};

use xenolith_guests::arch::{self, MAX_CPUS};
use xenolith_guests::report::Outcome;
use xenolith_guests::{cpus, ensure};

type Case = (&'static str, fn() -> Outcome);

pub(crate) const ALONE: &[Case] = &[
    ("timer.fires_after_its_time", fires),
    ("timer.in_the_past_fires_at_once", past_fires),
    ("timer.switched_off_stays_silent", off_is_silent),
    ("timer.wakes_a_sleeping_cpu", wakes),
];
pub(crate) const CASES: &[Case] = &[("timer.on_every_cpu", on_every_cpu)];

static FIRED: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];
static AT: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];

fn handler(_line: u32) {
    arch::timer_off();
    let own = arch::cpu_index();
    AT[own].store(arch::now(), Ordering::SeqCst);
    FIRED[own].fetch_add(1, Ordering::SeqCst);
}

fn fired(index: usize) -> u64 {
    FIRED[index].load(Ordering::SeqCst)
}

fn millisecond() -> u64 {
    arch::ticks_per_second() / 1000
}

fn fires() -> Outcome {
    arch::on_timer(handler);
    for _ in 0..10 {
        let before = fired(0);
        let deadline = arch::now() + millisecond();
        arch::timer_at(deadline);
        ensure!(cpus::wait_for(|| fired(0) == before + 1), "it did not fire");
        ensure!(
            AT[0].load(Ordering::SeqCst) >= deadline,
            "it fired too early"
        );
    }
    Ok(())
}

fn past_fires() -> Outcome {
    let before = fired(0);
    arch::timer_at(arch::now().saturating_sub(millisecond()));
    ensure!(cpus::wait_for(|| fired(0) == before + 1));
    Ok(())
}

fn off_is_silent() -> Outcome {
    let before = fired(0);
    // Far enough for an emulator that is kept from running between the two lines below.
    let deadline = arch::now() + 50 * millisecond();
    arch::timer_at(deadline);
    arch::timer_off();
    cpus::wait_for(|| arch::now() > deadline + millisecond());
    ensure!(fired(0) == before);
    Ok(())
}

fn wakes() -> Outcome {
    for _ in 0..10 {
        let before = fired(0);
        arch::irq_off();
        arch::timer_at(arch::now() + millisecond());
        while fired(0) == before {
            arch::wait_and_take();
        }
        arch::irq_on();
    }
    Ok(())
}

fn on_every_cpu() -> Outcome {
    for index in cpus::others() {
        cpus::begin(index, |own| {
            arch::on_timer(handler);
            for round in 1..=10 {
                arch::timer_at(arch::now() + millisecond());
                cpus::wait_for(|| fired(own) == round);
            }
        });
    }
    for index in cpus::others() {
        ensure!(cpus::wait_for(|| cpus::is_idle(index)), "cpu {index} hangs");
        ensure!(fired(index) == 10, "cpu {index}: {} of 10", fired(index));
    }
    Ok(())
}
