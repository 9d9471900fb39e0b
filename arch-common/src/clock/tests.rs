//! The rates of real machines, at all times.

use proptest::prelude::*;
use xenolith_hal::Nanos;

use super::Clock;

/// Cortex-A boards of 19.2, 24 and 54 MHz, QEMU's ARM and RISC-V machines, Armv8.6's rate, and what fits no round number.
const RATES: [u32; 9] = [
    10_000_000,
    19_200_000,
    24_000_000,
    32_768,
    54_000_000,
    62_500_000,
    99_999_999,
    1_000_000_000,
    u32::MAX,
];
const BOOT: u64 = 123_456_789;
const DAY: u64 = 86_400_000_000_000;

fn clock(hz: u32) -> Clock {
    let clock = Clock::new();
    clock.start(hz, BOOT);
    clock
}

/// The right answers, to the tick and the nanosecond.
fn exact_ticks(hz: u32, at: u64) -> u64 {
    let ticks = (u128::from(at) * u128::from(hz)).div_ceil(1_000_000_000);
    u64::try_from(ticks + u128::from(BOOT)).unwrap_or(u64::MAX)
}

fn exact_nanos(hz: u32, ticks: u64) -> u64 {
    let nanos = u128::from(ticks - BOOT) * 1_000_000_000 / u128::from(hz);
    u64::try_from(nanos).unwrap_or(u64::MAX)
}

/// Times of a machine that has run for up to ten years, short and long ones alike.
fn times() -> impl Strategy<Value = u64> {
    (0u32..49, any::<u64>()).prop_map(|(bits, time)| (time % (3650 * DAY)) >> bits)
}

#[test]
fn a_deadline_of_a_machine_that_ran_for_a_year_has_come_at_its_tick_and_not_long_before() {
    for hz in RATES {
        let clock = clock(hz);
        for at in [0, 1, 41, 42, 1_000_000_007, DAY + 1, 365 * DAY + 12_345] {
            let tick = clock.ticks_at(Nanos(at));
            assert!(clock.now(tick).0 >= at, "{hz} Hz: early at {at}");
            if tick > BOOT + 3 {
                let before = clock.now(tick - 3).0;
                assert!(before <= at, "{hz} Hz: late at {at}, by {}", before - at);
            }
        }
    }
}

#[test]
fn what_is_beyond_the_end_of_counting_is_its_end() {
    for hz in RATES {
        let clock = clock(hz);
        for at in [u64::MAX, u64::MAX - 1, u64::MAX / 2] {
            let tick = clock.ticks_at(Nanos(at));
            assert!(tick >= exact_ticks(hz, at), "{hz} Hz: {at} wrapped");
            // A guest's deadline.
            let right = exact_nanos(hz, at);
            let time = clock.nanos_at(at).0;
            assert!(
                time >= right - right / 1_000_000_000,
                "{hz} Hz: tick {at} wrapped"
            );
        }
    }
    assert_eq!(clock(u32::MAX).ticks_at(Nanos::MAX), u64::MAX);
    assert_eq!(clock(1_000_000).nanos_at(u64::MAX), Nanos::MAX);
}

#[test]
fn time_begins_at_start_up() {
    for hz in RATES {
        assert_eq!(clock(hz).now(BOOT), Nanos(0));
        assert_eq!(clock(hz).boot_ticks(), BOOT);
        // A deadline in the past is one.
        assert!(clock(hz).nanos_at(0) <= Nanos(1));
    }
}

proptest! {
    #[test]
    fn a_deadline_is_never_early_and_at_most_two_ticks_late(
        hz in prop::sample::select(RATES.to_vec()), at in times()
    ) {
        let clock = clock(hz);
        let tick = clock.ticks_at(Nanos(at));
        prop_assert!(clock.now(tick).0 >= at);
        // Two ticks and what the clock itself rounds.
        if tick > BOOT + 3 {
            prop_assert!(clock.now(tick - 3).0 <= at);
        }
    }

    #[test]
    fn the_deadline_of_a_guest_is_met_when_its_own_counter_shows_it(
        hz in prop::sample::select(RATES.to_vec()), since in times()
    ) {
        let clock = clock(hz);
        let wanted = exact_ticks(hz, since);
        let tick = clock.ticks_at(clock.nanos_at(wanted));
        prop_assert!(tick > wanted);
        // A nanosecond is some ticks of a fast counter.
        prop_assert!(tick - wanted <= 2 + u64::from(hz.div_ceil(1_000_000_000)));
    }

    #[test]
    fn the_clock_goes_right_to_two_microseconds_a_day_at_a_hundred_megahertz(
        hz in prop::sample::select(RATES.to_vec()), since in times()
    ) {
        let tick = exact_ticks(hz, since);
        let right = exact_nanos(hz, tick);
        let shown = clock(hz).now(tick).0;
        prop_assert!(shown <= right);
        let days = since / DAY + 1;
        prop_assert!(right - shown <= 1 + days * (1 + u64::from(hz) * 2_100 / 100_000_000));
    }
}
