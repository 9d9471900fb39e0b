//! Interrupts between harts by mask and base: each hart that is named gets one, nobody else.

use core::sync::atomic::{AtomicU64, Ordering};

use xenolith_guests::arch::sbi::{error, error_of, extension};
use xenolith_guests::arch::{self, MAX_CPUS};
use xenolith_guests::report::Outcome;
use xenolith_guests::{cpus, ensure, expect};

use super::Case;

pub(crate) const ONE_BY_BASE: Case = ("masks.one_by_base_and_bit", one_by_base);
pub(crate) const ALL_OTHERS: Case = ("masks.all_others", all_others);
pub(crate) const ALL_BY_NO_BASE: Case = ("masks.all_by_no_base", all_by_no_base);
pub(crate) const NOBODY: Case = ("masks.nobody", nobody);

static COUNT: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];

fn counts() -> [u64; MAX_CPUS] {
    core::array::from_fn(|index| COUNT[index].load(Ordering::SeqCst))
}

fn send(mask: u64, base: u64) -> i64 {
    error_of(extension::IPI, 0, [mask, base, 0])
}

fn prepare() -> Outcome {
    let handler: fn(u32) = |_| {
        COUNT[arch::cpu_index()].fetch_add(1, Ordering::SeqCst);
    };
    arch::on_ipi(handler);
    for index in cpus::others() {
        // The handler is the same for all CPUs and set above.
        let enabled = cpus::run(index, |_| arch::enable(arch::interrupt::SOFTWARE));
        ensure!(enabled, "cpu {index} hangs");
    }
    Ok(())
}

/// Sends once, and expects one more on each CPU that is `named` and no more on the others.
fn sent(mask: u64, base: u64, named: impl Fn(usize) -> bool) -> Outcome {
    let before = counts();
    expect!(send(mask, base), 0, "{mask:#x} from {base:#x} on");
    for index in 0..arch::cpu_count() {
        if named(index) {
            ensure!(
                cpus::wait_for(|| counts()[index] > before[index]),
                "cpu {index} got none"
            );
        }
    }
    let soon = arch::now() + arch::ticks_per_second() / 1000;
    cpus::wait_for(|| arch::now() > soon);
    for (index, (now, before)) in counts().into_iter().zip(before).enumerate() {
        expect!(now - before, u64::from(named(index)), "cpu {index}");
    }
    Ok(())
}

fn one_by_base() -> Outcome {
    prepare()?;
    for target in 0..arch::cpu_count() {
        let hart = arch::hart_of(target);
        for base in 0..=hart {
            sent(1 << (hart - base), base, |index| index == target)?;
        }
    }
    Ok(())
}

fn all_others() -> Outcome {
    prepare()?;
    let mask = cpus::others().fold(0, |mask, index| mask | 1 << arch::hart_of(index));
    sent(mask, 0, |index| index != 0 && index < arch::cpu_count())
}

/// With a base of all ones the mask does not count.
fn all_by_no_base() -> Outcome {
    prepare()?;
    for mask in [0, 1, u64::MAX] {
        sent(mask, u64::MAX, |index| index < arch::cpu_count())?;
    }
    Ok(())
}

fn nobody() -> Outcome {
    prepare()?;
    sent(0, 0, |_| false)?;
    if !arch::sbi::is_bare() {
        let before = counts();
        expect!(send(u64::MAX, 0), error::INVALID_PARAM, "some of nobody");
        expect!(send(1, 63), error::INVALID_PARAM, "nobody");
        // Whoever is there may have got one before the error was found.
        value_of_strays(before);
    }
    Ok(())
}

fn value_of_strays(before: [u64; MAX_CPUS]) {
    let strays: u64 = counts()
        .iter()
        .zip(before)
        .map(|(now, was)| now - was)
        .sum();
    xenolith_guests::report::value("masks.sent_before_the_error", strays as i64);
}
