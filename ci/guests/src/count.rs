//! How many instructions the counter's ticks are: a loop of known length is timed first.
//!
//! That holds wherever the counter advances with the instructions: under QEMU's `-icount`, where it may tick once for
//! several, and in Bochs, whose time-stamp counter ticks with each. A hypervisor that scales the counter is found out, too.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::arch;
use crate::report::value;

const MILLION: u64 = 1_000_000;
/// Instructions of one turn of `arch::turns`.
const OF_A_TURN: u64 = 2;
/// What disturbs one measurement does not disturb all.
const RUNS: usize = 3;

static TICKS: AtomicU64 = AtomicU64::new(0);

/// Times the loop and prints `ticks_of_a_million`.
pub fn calibrate() {
    let loop_of = |instructions| {
        let start = arch::now();
        arch::turns(instructions / OF_A_TURN);
        arch::now() - start
    };
    let mut best = u64::MAX;
    for _ in 0..RUNS {
        let once = loop_of(MILLION);
        let twice = loop_of(2 * MILLION);
        best = best.min(twice.saturating_sub(once));
    }
    TICKS.store(best.max(1), Ordering::Relaxed);
    value("ticks_of_a_million", best as i64);
}

/// Instructions in so many ticks.
pub fn instructions(ticks: u64) -> u64 {
    ticks * MILLION / TICKS.load(Ordering::Relaxed).max(1)
}
