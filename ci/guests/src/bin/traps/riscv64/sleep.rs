//! WFI, and the ways to set the timer.

use core::sync::atomic::{AtomicU64, Ordering};

use xenolith_guests::arch::{self, interrupt, sbi};
use xenolith_guests::report::value;
use xenolith_guests::xen::sched;
use xenolith_guests::{cpus, ensure, expect};

use super::{Case, Outcome};

pub(crate) const CASES: &[Case] = &[
    ("sleep.wfi_ends_with_a_masked_interrupt", wfi),
    ("sleep.wfi_with_an_interrupt_pending", wfi_pending),
    ("sleep.suspend_returns_at_an_interrupt", suspend),
    ("sleep.set_timer_takes_the_interrupt_back", taken_back),
    ("sleep.timer_by_its_register", by_register),
    ("sleep.time_runs", time_runs),
    ("sleep.yield_comes_back", yields),
];

fn millisecond() -> u64 {
    arch::ticks_per_second() / 1000
}

fn wfi() -> Outcome {
    arch::irq_off();
    arch::on_timer(|_| arch::timer_off());
    for _ in 0..5 {
        let deadline = arch::now() + millisecond();
        arch::timer_at(deadline);
        while arch::now() < deadline {
            arch::wait();
        }
        // An emulator that has other things to do shows it later than the time has come.
        ensure!(
            cpus::wait_for(|| arch::is_pending(interrupt::TIMER)),
            "not pending"
        );
        arch::irq_on();
        arch::irq_off();
    }
    Ok(())
}

/// It is over at once, however often.
fn wfi_pending() -> Outcome {
    arch::irq_off();
    arch::on_ipi(|_| ());
    arch::ipi_send(0);
    ensure!(
        cpus::wait_for(|| arch::is_pending(interrupt::SOFTWARE)),
        "no interrupt"
    );
    for _ in 0..100 {
        arch::wait();
    }
    arch::clear_software();
    ensure!(!arch::is_pending(interrupt::SOFTWARE), "still pending");
    Ok(())
}

/// The suspend that keeps the registers.
fn suspend() -> Outcome {
    arch::irq_off();
    arch::on_timer(|_| arch::timer_off());
    for _ in 0..5 {
        let deadline = arch::now() + millisecond();
        arch::timer_at(deadline);
        let answer = sbi::error_of(
            sbi::extension::HSM,
            sbi::hsm::SUSPEND,
            [0, arch::secondary_entry(), 0],
        );
        expect!(answer, 0);
        ensure!(arch::now() >= deadline, "it came back early");
        arch::irq_on();
        arch::irq_off();
    }
    Ok(())
}

fn taken_back() -> Outcome {
    arch::irq_off();
    arch::timer_at_by_sbi(0);
    ensure!(
        cpus::wait_for(|| arch::is_pending(interrupt::TIMER)),
        "it did not fire"
    );
    arch::timer_at_by_sbi(u64::MAX);
    ensure!(!arch::is_pending(interrupt::TIMER), "still pending");
    Ok(())
}

fn by_register() -> Outcome {
    static FIRED: AtomicU64 = AtomicU64::new(0);
    if !arch::has_sstc() {
        return Ok(());
    }
    arch::on_timer(|_| {
        arch::set_stimecmp(u64::MAX);
        FIRED.fetch_add(1, Ordering::SeqCst);
    });
    arch::irq_on();
    for round in 1..=10 {
        let deadline = arch::now() + millisecond();
        arch::set_stimecmp(deadline);
        ensure!(
            cpus::wait_for(|| FIRED.load(Ordering::SeqCst) == round),
            "it did not fire"
        );
        ensure!(arch::now() >= deadline, "it fired too early");
    }
    arch::irq_off();
    arch::set_stimecmp(0);
    ensure!(arch::is_pending(interrupt::TIMER), "not pending");
    arch::set_stimecmp(u64::MAX);
    ensure!(!arch::is_pending(interrupt::TIMER), "still pending");
    Ok(())
}

fn time_runs() -> Outcome {
    let first = arch::now();
    ensure!(cpus::wait_for(|| arch::now() > first), "it stands");
    let mut last = first;
    for _ in 0..10_000 {
        let now = arch::now();
        ensure!(now >= last, "it runs backwards");
        last = now;
    }
    value("sleep.ticks_per_second", arch::ticks_per_second() as i64);
    Ok(())
}

fn yields() -> Outcome {
    for _ in 0..100 {
        sched::yield_now();
    }
    Ok(())
}
