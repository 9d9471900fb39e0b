//! Counts instructions of single operations, where the counter advances with the instructions executed: under QEMU's
//! `-icount shift=0,sleep=off` with one CPU, and in Bochs. Each operation runs 4,096 times; the empty loop is subtracted. "to
//! handler" is the time from the instruction that raises the interrupt to the first instructions of the vector.
//!
//! `only=PREFIX,PREFIX` measures operations with such names; `pair=DOMID` measures only the round trip of events to a
//! domain beside this one that runs `guest-neighbour`.
#![no_std]
#![no_main]

use xenolith_guests::count::instructions;
use xenolith_guests::report::{self, Report, value};
use xenolith_guests::{arch, bootargs, count, guest};

mod common;
mod interrupts;
mod pair;

guest!(main);

const LOOPS: u64 = 4096;

fn main() {
    let report = Report::begin("bench");
    value("ticks_per_second", arch::ticks_per_second() as i64);
    count::calibrate();
    let pair = bootargs::number("pair", 0);
    if pair != 0 {
        pair::measure(pair as u16);
        report.finish();
    }
    common::measure();
    arch_operations::measure();
    interrupts::measure();
    report.finish()
}

#[cfg(target_arch = "aarch64")]
#[path = "aarch64.rs"]
mod arch_operations;
#[cfg(target_arch = "riscv64")]
#[path = "riscv64.rs"]
mod arch_operations;
#[cfg(all(target_arch = "x86_64", not(pv)))]
#[path = "x86_64.rs"]
mod arch_operations;
#[cfg(all(target_arch = "x86_64", pv))]
#[path = "pv/mod.rs"]
mod arch_operations;

/// Time of `LOOPS` runs of `operation`, in counter ticks.
fn ticks(operation: &mut impl FnMut()) -> u64 {
    let start = arch::now();
    for _ in 0..LOOPS {
        operation();
        core::hint::black_box(());
    }
    arch::now() - start
}

/// Has each round of a measurement begin at another place in a tick of the counter. A tick may be a hundred instructions here,
/// and rounds that take whole ticks would all be wrong by the same.
fn shift_in_tick(round: u64) {
    const TURNS_OF_A_TICK: u64 = 50;
    if cfg!(target_arch = "riscv64") {
        arch::turns(1 + round % TURNS_OF_A_TICK);
    }
}

/// Measures `operation` and prints instructions for one.
fn measure(name: &str, mut operation: impl FnMut()) {
    if !report::is_wanted(name) {
        return;
    }
    operation();
    let empty = ticks(&mut || core::hint::black_box(()));
    let full = ticks(&mut operation);
    value(
        name,
        (instructions(full.saturating_sub(empty)) / LOOPS) as i64,
    );
}
