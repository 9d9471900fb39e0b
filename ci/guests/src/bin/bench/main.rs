//! Counts instructions of single operations. Run it with one CPU under QEMU's `-icount shift=0,sleep=off`:
//! there the counter advances with the instructions executed (AArch64: one tick for 16; x86-64: one for one).
//! Each operation runs 4,096 times; the empty loop is subtracted. "to handler" is the time from the
//! instruction that raises the interrupt to the first instructions of the vector.
#![no_std]
#![no_main]

use xenolith_guests::report::{Report, value};
use xenolith_guests::{arch, guest};

mod common;
mod interrupts;

guest!(main);

const LOOPS: u64 = 4096;

fn main() {
    let report = Report::begin("bench");
    value("ticks_per_second", arch::ticks_per_second() as i64);
    common::measure();
    arch_operations::measure();
    interrupts::measure();
    report.finish()
}

#[cfg(target_arch = "aarch64")]
#[path = "aarch64.rs"]
mod arch_operations;
#[cfg(target_arch = "x86_64")]
#[path = "x86_64.rs"]
mod arch_operations;

/// Nanoseconds (instructions, under icount) for `ticks` of the counter.
fn instructions(ticks: u64) -> u64 {
    ticks * 1_000_000_000 / arch::ticks_per_second()
}

/// Time of `LOOPS` runs of `operation`, in counter ticks.
fn ticks(operation: &mut impl FnMut()) -> u64 {
    let start = arch::now();
    for _ in 0..LOOPS {
        operation();
        core::hint::black_box(());
    }
    arch::now() - start
}

/// Measures `operation` and prints instructions for one.
fn measure(name: &str, mut operation: impl FnMut()) {
    operation();
    let empty = ticks(&mut || core::hint::black_box(()));
    let full = ticks(&mut operation);
    value(
        name,
        (instructions(full.saturating_sub(empty)) / LOOPS) as i64,
    );
}
