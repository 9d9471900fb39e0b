use core::sync::atomic::AtomicBool;
use std::{thread, time::Instant};

use proptest::prelude::*;

use super::*;

const LIMITS: Limits = Limits {
    patience: u64::MAX,
    budget: u64::MAX,
    enough: 0,
};

/// Two CPUs in threads, whose counters are nanoseconds; the second is `apart` ahead and moves by `moves` of what it is told.
fn meet(apart: i64, moves: impl Fn(i64) -> i64 + Send + Sync) -> Outcome {
    let meeting = Meeting::new();
    let start = Instant::now();
    let nanos = || start.elapsed().as_nanos() as u64;
    let offset = AtomicI64::new(apart);
    thread::scope(|scope| {
        scope.spawn(|| {
            let counter = || nanos().wrapping_add(offset.load(Relaxed) as u64);
            meeting.follow(counter, |by| {
                offset.fetch_add(moves(by), Relaxed);
            });
        });
        lead(&meeting, nanos, LIMITS)
    })
}

/// What comes out for the CPU that asks.
fn lead(meeting: &Meeting, counter: impl Fn() -> u64, limits: Limits) -> Outcome {
    let mut told = None;
    let admission = meeting.lead(counter, limits, |outcome| told = Some(outcome));
    let outcome = told.unwrap();
    assert_eq!(admission, outcome.last.admission());
    outcome
}

#[test]
fn counters_that_agree_are_found_to() {
    let outcome = meet(0, |_| unreachable!());
    assert!(matches!(outcome.first, Verdict::Agree(_)), "{outcome:?}");
    assert_eq!(outcome.first, outcome.last);
}

#[test]
fn a_counter_that_is_apart_is_moved() {
    for apart in [-40_000_000_000i64, 70_000_000_000] {
        let outcome = meet(apart, |by| by);
        let Verdict::Apart(bounds) = outcome.first else {
            panic!("{outcome:?}")
        };
        assert!((bounds.low..=bounds.high).contains(&apart));
        assert!(matches!(outcome.last, Verdict::Agree(_)), "{outcome:?}");
    }
}

#[test]
fn a_counter_that_does_not_move_is_known_by_its_distance() {
    let outcome = meet(-40_000_000_000, |_| 0);
    let Verdict::Apart(bounds) = outcome.last else {
        panic!("{outcome:?}")
    };
    assert!((bounds.low..=bounds.high).contains(&-40_000_000_000));
}

#[test]
fn a_cpu_that_never_answers_is_not_waited_for() {
    let meeting = Meeting::new();
    let ticks = AtomicU64::new(0);
    let counter = || ticks.fetch_add(1, Relaxed);
    let limits = Limits {
        patience: 1000,
        budget: 10,
        enough: 0,
    };
    let outcome = lead(&meeting, counter, limits);
    assert_eq!(outcome.last, Verdict::Silent);
    // It comes after all, and is told to do nothing.
    let admission = meeting.follow(|| unreachable!(), |_| unreachable!());
    assert_eq!(admission, Admission::StaysOff);
}

#[test]
fn a_cpu_whose_counter_runs_away_stays_off() {
    let meeting = Meeting::new();
    let ticks = AtomicU64::new(0);
    let answers = AtomicU64::new(0);
    let admissions = thread::scope(|scope| {
        let other = scope
            .spawn(|| meeting.follow(|| answers.fetch_add(1, Relaxed) << 40, |_| unreachable!()));
        let counter = || ticks.fetch_add(1, Relaxed);
        let own = meeting.lead(counter, LIMITS, |outcome| {
            assert_eq!(outcome.last, Verdict::Unsteady);
        });
        (own, other.join().unwrap())
    });
    assert_eq!(admissions, (Admission::StaysOff, Admission::StaysOff));
}

#[test]
fn a_cpu_goes_on_only_when_all_is_settled_for_it() {
    let meeting = Meeting::new();
    let start = Instant::now();
    let nanos = || start.elapsed().as_nanos() as u64;
    let (settled, gone) = (AtomicBool::new(false), AtomicBool::new(false));
    let admission = thread::scope(|scope| {
        scope.spawn(|| {
            let admission = meeting.follow(|| nanos().wrapping_add(1 << 50), |_| {});
            gone.store(true, Release);
            assert_eq!(admission, Admission::Joins);
            assert!(settled.load(Relaxed));
        });
        meeting.lead(nanos, LIMITS, |outcome| {
            assert!(matches!(outcome.last, Verdict::Apart(_)), "{outcome:?}");
            for _ in 0..1000 {
                assert!(!gone.load(Acquire));
                thread::yield_now();
            }
            settled.store(true, Relaxed);
        })
    });
    assert_eq!(admission, Admission::Joins);
}

#[test]
fn a_late_answer_is_not_taken_for_that_of_the_next_question() {
    let meeting = Meeting::new();
    let late = AtomicBool::new(true);
    let ticks = AtomicU64::new(0);
    let counter = || ticks.fetch_add(1, Relaxed);
    thread::scope(|scope| {
        scope.spawn(|| {
            // Stands still at its first answer until it is too late for it.
            meeting.follow(
                || {
                    while late.load(Acquire) {
                        thread::yield_now();
                    }
                    5
                },
                |_| {},
            );
        });
        let limits = Limits {
            patience: 100_000,
            budget: 10,
            enough: 0,
        };
        assert_eq!(lead(&meeting, counter, limits).last, Verdict::Silent);
        late.store(false, Release);
    });
}

#[test]
fn the_budget_ends_the_questions() {
    let meeting = Meeting::new();
    let asked = AtomicU32::new(0);
    let ticks = AtomicU64::new(0);
    let counter = || ticks.fetch_add(100, Relaxed);
    thread::scope(|scope| {
        scope.spawn(|| {
            meeting.follow(
                || {
                    asked.fetch_add(1, Relaxed);
                    counter()
                },
                |_| {},
            );
        });
        let limits = Limits {
            patience: u64::MAX,
            budget: 1,
            enough: u64::MAX,
        };
        assert!(matches!(
            lead(&meeting, counter, limits).last,
            Verdict::Agree(_)
        ));
    });
    assert_eq!(asked.load(Relaxed), FEWEST);
}

proptest! {
    #[test]
    fn the_bounds_always_hold_the_difference(
        apart in -1_000_000_000i64..1_000_000_000,
        delays in proptest::collection::vec((0u64..100_000, 0u64..100_000), 1..50),
    ) {
        let mut bounds = Bounds::NONE;
        let mut now = 5_000_000_000u64;
        for (there, back) in delays {
            let seen = (now + there).wrapping_add(apart as u64);
            bounds.narrow(now, seen, now + there + back);
            now += there + back + 10;
        }
        prop_assert!(bounds.low <= apart && apart <= bounds.high);
        let agree = matches!(bounds.verdict(), Verdict::Agree(_));
        prop_assert_eq!(agree, bounds.low <= 0 && 0 <= bounds.high);
    }

    #[test]
    fn a_counter_that_jumps_is_unsteady(jump in 300_000i64..1_000_000_000) {
        let mut bounds = Bounds::NONE;
        bounds.narrow(1_000_000, 1_000_100, 1_000_200);
        bounds.narrow(2_000_000, 2_000_100 + jump as u64, 2_000_200);
        prop_assert_eq!(bounds.verdict(), Verdict::Unsteady);
    }
}
