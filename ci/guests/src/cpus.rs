//! Secondary CPUs at work: each waits in a loop for a function to run, so that a case can say
//! "on CPU 2 do this" and wait for it with a bound.

use core::sync::atomic::{AtomicUsize, Ordering};

use crate::arch::{self, MAX_CPUS};

static WORK: [AtomicUsize; MAX_CPUS] = [const { AtomicUsize::new(0) }; MAX_CPUS];
const LEAVE: usize = 1;

/// Waits until `condition` holds, at most five seconds of the counter; says whether it did.
pub fn wait_for(condition: impl Fn() -> bool) -> bool {
    let end = arch::now() + 5 * arch::ticks_per_second();
    while !condition() {
        if arch::now() > end {
            return condition();
        }
        arch::relax();
    }
    true
}

fn worker(index: usize) {
    arch::irq_on();
    loop {
        match WORK[index].load(Ordering::Acquire) {
            0 => arch::relax(),
            LEAVE => break,
            work => {
                // SAFETY: only `begin` stores here, and it stores a `fn(usize)`.
                let work: fn(usize) = unsafe { core::mem::transmute(work) };
                work(index);
                WORK[index].store(0, Ordering::Release);
            }
        }
    }
    WORK[index].store(0, Ordering::Release);
    arch::irq_off();
}

/// Starts CPU `index`; says what the firmware said, and whether the CPU came up.
pub fn start(index: usize) -> (i64, bool) {
    WORK[index].store(0, Ordering::Relaxed);
    let errno = arch::cpu_start(index, worker);
    (errno, errno == 0 && wait_for(|| arch::cpu_is_online(index)))
}

/// Stops CPU `index`; says whether it is off.
pub fn stop(index: usize) -> bool {
    WORK[index].store(LEAVE, Ordering::Release);
    wait_for(|| arch::cpu_is_off(index))
}

/// Has CPU `index` run `work(index)`, without waiting.
pub fn begin(index: usize, work: fn(usize)) {
    WORK[index].store(work as usize, Ordering::Release);
}

/// Whether CPU `index` has done its work.
pub fn is_idle(index: usize) -> bool {
    WORK[index].load(Ordering::Acquire) == 0
}

/// Has CPU `index` run `work(index)`; says whether it ended in time.
pub fn run(index: usize, work: fn(usize)) -> bool {
    begin(index, work);
    wait_for(|| is_idle(index))
}

/// The CPUs other than the first.
pub fn others() -> core::ops::Range<usize> {
    1..arch::cpu_count()
}
