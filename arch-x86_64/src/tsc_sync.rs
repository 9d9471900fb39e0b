//! Whether two CPUs' time-stamp counters agree, and by how much they do not.
//!
//! The CPU that is there asks, the one that comes up answers with its counter. It was read between the question and the
//! answer's arrival, so each exchange bounds the difference from both sides, however late it is: the bounds hold on a slow
//! emulator too, they are only wider. Pure, but for the counters that the callers bring; tested with threads.

use core::sync::atomic::{
    AtomicI64, AtomicU32, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

/// Between which values the difference lies, in ticks: the other CPU's counter less the asking one's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// It is no less.
    pub low: i64,
    /// It is no more.
    pub high: i64,
}

impl Bounds {
    const NONE: Self = Self {
        low: i64::MIN,
        high: i64::MAX,
    };

    /// An exchange: asked at `asked`, answered with `seen`, the answer there at `answered`.
    fn narrow(&mut self, asked: u64, seen: u64, answered: u64) {
        self.low = self.low.max(seen.wrapping_sub(answered) as i64);
        self.high = self.high.min(seen.wrapping_sub(asked) as i64);
    }

    /// The middle of what is possible.
    #[must_use]
    pub const fn middle(&self) -> i64 {
        self.low.midpoint(self.high)
    }

    /// How far apart the bounds are.
    #[must_use]
    pub const fn width(&self) -> u64 {
        self.high.abs_diff(self.low)
    }

    fn verdict(self) -> Verdict {
        if self.low > self.high {
            Verdict::Unsteady
        } else if self.low <= 0 && 0 <= self.high {
            Verdict::Agree(self)
        } else {
            Verdict::Apart(self)
        }
    }
}

/// What came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// No difference can be shown.
    Agree(Bounds),
    /// They differ, always by as much.
    Apart(Bounds),
    /// They differ by more and less: one runs faster, or jumped.
    Unsteady,
    /// The other CPU did not answer in time.
    Silent,
}

/// What becomes of the CPU whose counter was compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It goes on.
    Joins,
    /// The time cannot be told on it: it must do nothing more.
    StaysOff,
}

impl Verdict {
    /// What the verdict means for the other CPU. A distance that stays the same can be taken off what is read.
    #[must_use]
    pub const fn admission(self) -> Admission {
        match self {
            Self::Agree(_) | Self::Apart(_) => Admission::Joins,
            Self::Unsteady | Self::Silent => Admission::StaysOff,
        }
    }
}

/// What was found and done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Before anything was done.
    pub first: Verdict,
    /// After the other CPU's counter was moved, if it was; else as before.
    pub last: Verdict,
}

/// How long the asking CPU takes, in ticks of its counter.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// It waits so long for an answer.
    pub patience: u64,
    /// After so long it asks no more, unless the bounds are still wider than `enough`; after ten times as long in any case.
    pub budget: u64,
    /// See `budget`.
    pub enough: u64,
}

/// Questions at most, and before the budget may end it.
const MOST: u32 = 256;
const FEWEST: u32 = 8;
/// The other counter is moved at most so often: a write of the counter itself is a little late each time.
const MOVES: u32 = 3;

const READ: u32 = 0;
const MOVE: u32 = 1;
const JOIN: u32 = 2;
const STAY_OFF: u32 = 3;

/// Where two CPUs meet.
#[derive(Debug, Default)]
pub struct Meeting {
    /// Odd: a question; even: its answer.
    turn: AtomicU32,
    command: AtomicU32,
    distance: AtomicI64,
    seen: AtomicU64,
}

impl Meeting {
    /// Nobody is there yet.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            turn: AtomicU32::new(0),
            command: AtomicU32::new(READ),
            distance: AtomicI64::new(0),
            seen: AtomicU64::new(0),
        }
    }

    /// The CPU whose counter is compared answers until it is dismissed, and learns what becomes of it. `move_by` changes its
    /// counter.
    pub fn follow(&self, counter: impl Fn() -> u64, mut move_by: impl FnMut(i64)) -> Admission {
        let mut answered = 0;
        loop {
            let turn = self.turn.load(Acquire);
            if turn == answered || turn & 1 == 0 {
                core::hint::spin_loop();
                continue;
            }
            match self.command.load(Relaxed) {
                JOIN => return Admission::Joins,
                STAY_OFF => return Admission::StaysOff,
                MOVE => move_by(self.distance.load(Relaxed)),
                _ => {}
            }
            self.seen.store(counter(), Relaxed);
            answered = turn.wrapping_add(1);
            // One who waited no longer has put another question by now, and that one stays.
            let _ = self.turn.compare_exchange(turn, answered, Release, Relaxed);
        }
    }

    /// The CPU that the other is compared with. The other one is always dismissed, as the last verdict says; what it must find
    /// when it goes on, `settle` does before.
    pub fn lead(
        &self,
        counter: impl Fn() -> u64,
        limits: Limits,
        settle: impl FnOnce(Outcome),
    ) -> Admission {
        let first = self.compare(&counter, limits);
        let mut last = first;
        for _ in 0..MOVES {
            let Verdict::Apart(bounds) = last else { break };
            self.distance.store(bounds.middle().wrapping_neg(), Relaxed);
            if self.ask(MOVE, &counter, limits.patience).is_none() {
                last = Verdict::Silent;
                break;
            }
            last = self.compare(&counter, limits);
        }
        settle(Outcome { first, last });
        let admission = last.admission();
        self.put(match admission {
            Admission::Joins => JOIN,
            Admission::StaysOff => STAY_OFF,
        });
        admission
    }

    fn compare(&self, counter: &impl Fn() -> u64, limits: Limits) -> Verdict {
        let mut bounds = Bounds::NONE;
        let start = counter();
        for question in 0..MOST {
            let asked = counter();
            let budget = if bounds.width() <= limits.enough {
                limits.budget
            } else {
                limits.budget.saturating_mul(10)
            };
            if question >= FEWEST && asked.wrapping_sub(start) > budget {
                break;
            }
            let Some(answered) = self.ask(READ, counter, limits.patience) else {
                return Verdict::Silent;
            };
            bounds.narrow(asked, self.seen.load(Relaxed), answered);
        }
        bounds.verdict()
    }

    /// Puts a question; returns its turn.
    fn put(&self, command: u32) -> u32 {
        // Odd, and another one than a question that was not answered.
        let turn = self.turn.load(Relaxed).wrapping_add(1) | 1;
        self.command.store(command, Relaxed);
        self.turn.store(turn, Release);
        turn
    }

    /// Puts a question and waits; the counter when the answer was there.
    fn ask(&self, command: u32, counter: &impl Fn() -> u64, patience: u64) -> Option<u64> {
        let answer = self.put(command).wrapping_add(1);
        let start = counter();
        loop {
            let there = self.turn.load(Acquire) == answer;
            let now = counter();
            if there {
                return Some(now);
            }
            if now.wrapping_sub(start) > patience {
                return None;
            }
            core::hint::spin_loop();
        }
    }
}

#[cfg(test)]
mod tests;
