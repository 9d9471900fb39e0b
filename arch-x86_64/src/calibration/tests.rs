use core::cell::Cell;

use proptest::prelude::*;

use super::*;

const PM_TIMER: Clock = Clock {
    name: "the PM timer",
    period: 279_365_115,
    mask: 0xff_ffff,
};
const SPAN: u64 = 3_000_000_000_000;

/// A machine whose time goes on by a read; at some reads it jumps.
struct Machine {
    nanos: Cell<u64>,
    /// Nanoseconds of a read.
    cost: u64,
    hertz: u64,
    reads: Cell<u64>,
    /// At this read the counter alone goes on by so many nanoseconds.
    jump: (u64, u64),
    jumped: Cell<u64>,
    /// At this read both go on by so many nanoseconds: the CPU was stopped.
    stop: (u64, u64),
}

impl Machine {
    fn new(hertz: u64, cost: u64) -> Self {
        Self {
            nanos: Cell::new(u64::from(u32::MAX) * 250),
            cost,
            hertz,
            reads: Cell::new(0),
            jump: (0, 0),
            jumped: Cell::new(0),
            stop: (0, 0),
        }
    }

    fn pass(&self) -> u64 {
        let read = self.reads.get() + 1;
        self.reads.set(read);
        let mut nanos = self.nanos.get() + self.cost;
        if read == self.stop.0 {
            nanos += self.stop.1;
        }
        if read == self.jump.0 {
            self.jumped.set(self.jump.1);
        }
        self.nanos.set(nanos);
        nanos
    }

    fn measure(&self) -> Option<Rate> {
        let clock = || (u128::from(self.pass()) * 1_000_000 / u128::from(PM_TIMER.period)) as u32;
        let counter = || {
            let nanos = self.pass() + self.jumped.get();
            (u128::from(nanos) * u128::from(self.hertz) / 1_000_000_000) as u64
        };
        measure(&PM_TIMER, SPAN, clock, counter)
    }
}

fn is_near(rate: Rate, hertz: u64) -> bool {
    rate.hertz.abs_diff(hertz) * 1_000_000 <= hertz * (rate.error + 1)
}

#[test]
fn a_rate_is_found_within_the_error_that_is_told() {
    for (hertz, cost) in [(2_500_000_000, 700), (1_000_000_000, 20), (50_000_000, 300)] {
        let rate = Machine::new(hertz, cost).measure().unwrap();
        assert!(
            is_near(rate, hertz) && rate.error < 200 && !rate.lone,
            "{rate:?}"
        );
    }
}

#[test]
fn a_clock_that_stands_still_is_no_clock() {
    assert_eq!(measure(&PM_TIMER, SPAN, || 7, || 9), None);
    assert_eq!(measure(&PM_TIMER, SPAN, || u32::MAX, || 9), None);
}

#[test]
fn a_counter_that_stands_still_has_no_rate() {
    let ticks = Cell::new(0u32);
    let clock = || {
        ticks.set(ticks.get() + 1);
        ticks.get()
    };
    assert_eq!(measure(&PM_TIMER, SPAN, clock, || 9), None);
}

#[test]
fn a_clock_without_a_period_or_with_too_few_bits_is_not_waited_for() {
    let none = |period, mask| Clock {
        name: "",
        period,
        mask,
    };
    let never = || -> u32 { unreachable!() };
    assert_eq!(measure(&none(0, u32::MAX), SPAN, never, || 0), None);
    assert_eq!(measure(&none(1_000_000, 0xffff), SPAN, never, || 0), None);
}

proptest! {
    #[test]
    fn one_jump_of_the_counter_is_left_out(at in 1u64..60_000, nanos in 1u64..1_000_000_000) {
        let mut machine = Machine::new(2_000_000_000, 300);
        machine.jump = (at, nanos);
        let rate = machine.measure().unwrap();
        // What is shorter than a look at the clock cannot be told from it.
        let allowed = (rate.error + 2 * SLACK + 100) * rate.hertz / 1_000_000;
        prop_assert!(rate.hertz.abs_diff(2_000_000_000) <= allowed, "{rate:?}");
    }

    #[test]
    fn a_cpu_that_was_stopped_measures_the_same(at in 1u64..60_000, nanos in 1u64..1_000_000_000) {
        let mut machine = Machine::new(3_000_000_000, 300);
        machine.stop = (at, nanos);
        let rate = machine.measure().unwrap();
        prop_assert!(is_near(rate, 3_000_000_000), "{rate:?}");
    }

    #[test]
    fn any_counters_are_survived(clock in any::<[u32; 16]>(), counter in any::<[u64; 16]>()) {
        let (a, b) = (Cell::new(0usize), Cell::new(0usize));
        let next = |cell: &Cell<usize>| {
            cell.set(cell.get() + 1);
            cell.get() % 16
        };
        let known = Clock { mask: u32::MAX, ..PM_TIMER };
        let rate = measure(&known, SPAN, || clock[next(&a)], || counter[next(&b)]);
        if let Some(rate) = rate {
            prop_assert!((10_000..=50_000_000_000).contains(&rate.hertz));
        }
    }
}

fn leaves(last: u32, crystal: [u32; 4], frequency: [u32; 4]) -> impl Fn(u32) -> [u32; 4] {
    move |leaf| match leaf {
        0 => [last, 0, 0, 0],
        0x15 => crystal,
        0x16 => frequency,
        _ => [0; 4],
    }
}

#[test]
fn what_cpuid_tells_is_exact_only_with_the_crystal() {
    let crystal = [2, 216, 24_000_000, 0];
    assert_eq!(
        told(leaves(0x16, crystal, [2600, 0, 0, 0])),
        Some(Told::Exact(2_592_000_000))
    );
    let unknown = [2, 216, 0, 0];
    assert_eq!(
        told(leaves(0x16, unknown, [2600, 3500, 100, 0])),
        Some(Told::Nominal(2_600_000_000))
    );
    assert_eq!(told(leaves(0x15, unknown, [2600, 0, 0, 0])), None);
    assert_eq!(told(leaves(0x14, crystal, [2600, 0, 0, 0])), None);
    assert_eq!(told(leaves(0x16, [0, 216, 24_000_000, 0], [0; 4])), None);
    assert_eq!(told(leaves(0x15, [1, u32::MAX, u32::MAX, 0], [0; 4])), None);
}

#[test]
fn a_clock_is_believed_more_than_cpuid() {
    let rate = |hertz| {
        Some(Rate {
            hertz,
            error: 20,
            lone: false,
        })
    };
    let exact = Some(Told::Exact(2_592_000_000));
    assert_eq!(
        decide(exact, rate(2_591_900_000)),
        Some((2_592_000_000, Source::Cpuid))
    );
    assert_eq!(
        decide(exact, rate(50_000_000)),
        Some((50_000_000, Source::ClockAgainstCpuid))
    );
    let nominal = Some(Told::Nominal(2_600_000_000));
    assert_eq!(
        decide(nominal, rate(2_591_900_000)),
        Some((2_591_900_000, Source::Clock))
    );
    assert_eq!(decide(nominal, None), Some((2_600_000_000, Source::Cpuid)));
    assert_eq!(decide(None, None), None);
}
