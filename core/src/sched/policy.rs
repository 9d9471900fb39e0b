//! Who runs next on one CPU, and for how long.
//!
//! [`Policy`] is all that the rest of the scheduler knows of it; callers hold the CPU's run-queue lock. The one policy so
//! far, [`Fair`], gives the CPU to the vCPU that had least of it. Runs are weighed by *virtual run time*; a vCPU that
//! slept gets a small head start, and nobody is ever ahead or behind of the others on a CPU by more than a bound, so
//! that neither long sleep nor migration starves anyone.

use alloc::vec::Vec;

use xenolith_hal::{CpuId, Hal, Nanos, NoMemory};

use crate::VcpuRef;

/// Why a vCPU enters a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entering {
    /// It became runnable.
    Woken,
    /// It ran, and another took its place.
    Preempted,
    /// It gave the CPU away.
    Yielded,
}

/// What is to happen with a running vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It goes on, to be looked at again at this time (if ever).
    Keep(Option<Nanos>),
    /// Another one's turn.
    Switch,
}

/// The running vCPU of a CPU, as the policy sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Turn {
    /// Its virtual run time by now.
    pub(crate) vruntime: u64,
    /// How long it has had the CPU.
    pub(crate) ran: Nanos,
    /// Whether it asked to let others run.
    pub(crate) yields: bool,
}

/// A run queue of one CPU: those that wait for it, without the one that runs.
pub(crate) trait Policy<H: Hal>: Send {
    /// An empty queue.
    fn new() -> Self;
    /// Makes room for this many vCPUs in all.
    fn reserve(&mut self, vcpus: usize) -> Result<(), NoMemory>;
    /// How many wait.
    fn len(&self) -> usize;
    /// Adds a vCPU. `running` is the virtual run time of the one that has the CPU.
    fn enqueue(&mut self, vcpu: VcpuRef<H>, why: Entering, running: Option<u64>);
    /// Takes out the one whose turn is next.
    fn next(&mut self) -> Option<VcpuRef<H>>;
    /// Takes out the next one that may run on another CPU.
    fn steal(&mut self, thief: CpuId) -> Option<VcpuRef<H>>;
    /// Takes a given one out, if it is there.
    fn remove(&mut self, vcpu: &VcpuRef<H>) -> Option<VcpuRef<H>>;
    /// Whether the running vCPU goes on.
    fn verdict(&self, turn: Turn, now: Nanos) -> Verdict;
    /// Calls `f` for each that waits, the next one first.
    fn for_each(&self, f: &mut dyn FnMut(&VcpuRef<H>));
}

/// The policy in use.
pub(crate) type Active<H> = Fair<H>;

/// The longest run while others wait.
pub(crate) const SLICE: Nanos = Nanos::from_millis(10);
/// A run lasts at least so long before a waker ends it.
pub(crate) const RATE_LIMIT: Nanos = Nanos::from_millis(1);
/// A waker preempts when it is behind the running vCPU by more than this.
const GRAIN: u64 = 500_000;
/// The head start of a vCPU that slept.
const SLEEPER: u64 = 5_000_000;
/// How far a vCPU may be ahead or behind of the CPU's virtual clock when it enters the queue.
const BOUND: u64 = 50_000_000;

struct Waiter<H: Hal> {
    key: u64,
    vcpu: VcpuRef<H>,
}

/// Least virtual run time first.
pub(crate) struct Fair<H: Hal> {
    /// Highest key first, so that the next one is at the end.
    waiters: Vec<Waiter<H>>,
    /// The CPU's virtual clock: the least virtual run time here, never going back.
    clock: u64,
}

impl<H: Hal> Policy<H> for Fair<H> {
    fn new() -> Self {
        Self {
            waiters: Vec::new(),
            clock: 0,
        }
    }

    fn reserve(&mut self, vcpus: usize) -> Result<(), NoMemory> {
        let more = vcpus.saturating_sub(self.waiters.len());
        self.waiters.try_reserve(more).map_err(|_| NoMemory)
    }

    fn len(&self) -> usize {
        self.waiters.len()
    }

    fn enqueue(&mut self, vcpu: VcpuRef<H>, why: Entering, running: Option<u64>) {
        let least = match (running, self.waiters.last()) {
            (Some(run), Some(next)) => Some(run.min(next.key)),
            (Some(run), None) => Some(run),
            (None, Some(next)) => Some(next.key),
            (None, None) => None,
        };
        self.clock = self.clock.max(least.unwrap_or(0));
        let head_start = if why == Entering::Woken {
            SLEEPER
        } else {
            BOUND
        };
        let sched = &vcpu.sched;
        let vruntime = sched.vruntime().clamp(
            self.clock.saturating_sub(head_start),
            self.clock.saturating_add(BOUND),
        );
        sched.set_vruntime(vruntime);
        let key = match (why, self.waiters.first()) {
            (Entering::Yielded, Some(last)) => vruntime.max(last.key),
            _ => vruntime,
        };
        let at = self.waiters.partition_point(|waiter| waiter.key > key);
        self.waiters.insert(at, Waiter { key, vcpu });
    }

    #[inline]
    fn next(&mut self) -> Option<VcpuRef<H>> {
        let waiter = self.waiters.pop()?;
        self.clock = self.clock.max(waiter.vcpu.sched.vruntime());
        Some(waiter.vcpu)
    }

    fn steal(&mut self, thief: CpuId) -> Option<VcpuRef<H>> {
        let at = self
            .waiters
            .iter()
            .rposition(|waiter| waiter.vcpu.sched.hard.contains(thief))?;
        Some(self.waiters.remove(at).vcpu)
    }

    fn remove(&mut self, vcpu: &VcpuRef<H>) -> Option<VcpuRef<H>> {
        let at = self
            .waiters
            .iter()
            .position(|waiter| waiter.vcpu == *vcpu)?;
        Some(self.waiters.remove(at).vcpu)
    }

    #[inline]
    fn verdict(&self, turn: Turn, now: Nanos) -> Verdict {
        let Some(next) = self.waiters.last() else {
            return Verdict::Keep(None);
        };
        if turn.yields {
            return Verdict::Switch;
        }
        if turn.ran >= SLICE {
            return if next.key <= turn.vruntime {
                Verdict::Switch
            } else {
                Verdict::Keep(Some(now.plus(SLICE)))
            };
        }
        let limit = if next.key.saturating_add(GRAIN) < turn.vruntime {
            RATE_LIMIT
        } else {
            SLICE
        };
        if turn.ran >= limit {
            Verdict::Switch
        } else {
            Verdict::Keep(Some(now.plus(limit.since(turn.ran))))
        }
    }

    fn for_each(&self, f: &mut dyn FnMut(&VcpuRef<H>)) {
        for waiter in self.waiters.iter().rev() {
            f(&waiter.vcpu);
        }
    }
}
