//! How fast a counter runs, found by a clock whose rate is known.
//!
//! Both are read at a few moments, a short span apart. A read of the counter before and one after that of the clock say how
//! far a moment can be trusted; where an emulator or firmware stops the CPU or sets a clock on, the spans around it stand out
//! from the others and are left out. Everything is bounded: a clock that stands still gives `None`.

/// A clock to measure by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// What it is called.
    pub name: &'static str,
    /// Femtoseconds between two ticks.
    pub period: u64,
    /// The bits that it has.
    pub mask: u32,
}

/// What was found of a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Ticks a second.
    pub hertz: u64,
    /// By how much that may be wrong, in millionths.
    pub error: u64,
    /// Whether no two spans agreed, so that the one that looks best was taken.
    pub lone: bool,
}

/// Both counters at one moment.
#[derive(Clone, Copy, Debug, Default)]
struct Moment {
    clock: u32,
    counter: u64,
    /// Ticks of the counter in which the clock was read.
    width: u64,
}

const MOMENTS: usize = 6;
const SECOND: u128 = 1_000_000_000_000_000;
const MILLION: u128 = 1_000_000;
/// Spans that differ by no more than this many millionths beyond their own errors agree.
const SLACK: u64 = 200;
/// No counter that is used here is slower or faster.
const SLOWEST: u128 = 10_000;
const FASTEST: u128 = 50_000_000_000;
/// Looks at a clock that stands still.
const STANDING: u32 = 50_000;
/// Looks at a clock that does not get on.
const PATIENCE: u32 = 20_000_000;

/// Measures a counter by a clock in five spans of so many femtoseconds each.
pub fn measure(
    known: &Clock,
    span: u64,
    mut clock: impl FnMut() -> u32,
    mut counter: impl FnMut() -> u64,
) -> Option<Rate> {
    let step = u32::try_from(span.checked_div(known.period)?.max(1)).ok()?;
    if step > known.mask / 4 {
        return None;
    }
    let mut moments = [Moment::default(); MOMENTS];
    let mut last: Option<u32> = None;
    for moment in &mut moments {
        if let Some(from) = last {
            wait(known, from, step, &mut clock)?;
        }
        *moment = look(known, &mut clock, &mut counter);
        last = Some(moment.clock);
    }
    evaluate(known, &moments)
}

/// Spins until a clock has gone on by `step`; a jump ends it too.
fn wait(known: &Clock, from: u32, step: u32, clock: &mut impl FnMut() -> u32) -> Option<()> {
    let (mut seen, mut since) = (from, 0u32);
    for _ in 0..PATIENCE {
        let now = clock() & known.mask;
        if now.wrapping_sub(from) & known.mask >= step {
            return Some(());
        }
        since = if now == seen { since + 1 } else { 0 };
        if since > STANDING {
            return None;
        }
        seen = now;
        core::hint::spin_loop();
    }
    None
}

/// The best of a few looks at both.
fn look(
    known: &Clock,
    clock: &mut impl FnMut() -> u32,
    counter: &mut impl FnMut() -> u64,
) -> Moment {
    const LOOKS: usize = 4;
    let mut best = Moment {
        width: u64::MAX,
        ..Moment::default()
    };
    for _ in 0..LOOKS {
        let before = counter();
        let clock = clock() & known.mask;
        let width = counter().wrapping_sub(before);
        if width < best.width {
            let counter = before.wrapping_add(width / 2);
            best = Moment {
                clock,
                counter,
                width,
            };
        }
    }
    best
}

/// The rate between two moments; `None` if it is impossible.
fn between(known: &Clock, from: &Moment, to: &Moment) -> Option<Rate> {
    let clock = u128::from(to.clock.wrapping_sub(from.clock) & known.mask);
    let counted = u128::from(to.counter.checked_sub(from.counter)?);
    let time = clock.checked_mul(known.period.into())?;
    let hertz = counted.checked_mul(SECOND)?.checked_div(time)?;
    if !(SLOWEST..=FASTEST).contains(&hertz) {
        return None;
    }
    // The true moments lie within half of the widths; a tick of either may just be over.
    let doubt = u128::from(from.width / 2) + u128::from(to.width / 2) + 1;
    let error = (doubt * MILLION).checked_div(counted)? + MILLION.checked_div(clock)?;
    Some(Rate {
        hertz: hertz as u64,
        error: u64::try_from(error).unwrap_or(u64::MAX),
        lone: true,
    })
}

fn agree(a: &Rate, b: &Rate) -> bool {
    let allowed = u128::from(a.error) + u128::from(b.error) + u128::from(SLACK);
    u128::from(a.hertz.abs_diff(b.hertz)) * MILLION <= u128::from(a.hertz) * allowed
}

/// The longest row of spans of which each agrees with one of them, the one that most agree with.
fn evaluate(known: &Clock, moments: &[Moment; MOMENTS]) -> Option<Rate> {
    let mut spans = [None; MOMENTS - 1];
    for (span, pair) in spans.iter_mut().zip(moments.windows(2)) {
        if let [from, to] = pair {
            *span = between(known, from, to);
        }
    }
    let followers = |one: &Rate| {
        spans
            .iter()
            .flatten()
            .filter(|other| agree(one, other))
            .count()
    };
    let chosen = spans
        .iter()
        .flatten()
        .max_by_key(|one| (followers(one), core::cmp::Reverse(one.error)))?;
    if followers(chosen) < 2 {
        return Some(*chosen);
    }
    let mut best: Option<Rate> = None;
    let mut start = 0;
    for end in 1..MOMENTS {
        let fits = spans.get(end - 1).copied().flatten();
        if !fits.is_some_and(|span| agree(chosen, &span)) {
            start = end;
            continue;
        }
        let whole = moments.get(start).zip(moments.get(end));
        let whole = whole.and_then(|(from, to)| between(known, from, to));
        if let Some(rate) = whole.filter(|rate| best.is_none_or(|best| rate.error < best.error)) {
            best = Some(Rate {
                lone: false,
                ..rate
            });
        }
    }
    best
}

/// What CPUID says of the time-stamp counter's rate (Intel SDM, volume 2, CPUID leaves 0x15 and 0x16).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// From the crystal's rate: exact.
    Exact(u64),
    /// The rate that the CPU is sold with, in whole megahertz.
    Nominal(u64),
}

/// Reads the leaves by `leaf`, whose results are EAX, EBX, ECX, EDX.
pub fn told(leaf: impl Fn(u32) -> [u32; 4]) -> Option<Told> {
    const CRYSTAL: u32 = 0x15;
    const FREQUENCY: u32 = 0x16;
    let [last, ..] = leaf(0);
    if last >= CRYSTAL {
        let [under, over, crystal, _] = leaf(CRYSTAL).map(u64::from);
        let rate = crystal.checked_mul(over)?.checked_div(under);
        let possible = |rate: &u64| (SLOWEST..=FASTEST).contains(&u128::from(*rate));
        if let Some(rate) = rate.filter(possible) {
            return Some(Told::Exact(rate));
        }
    }
    let megahertz = if last >= FREQUENCY {
        leaf(FREQUENCY)[0] & 0xffff
    } else {
        0
    };
    (megahertz != 0).then_some(Told::Nominal(u64::from(megahertz) * 1_000_000))
}

/// Where a rate is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// CPUID says it, and no clock says otherwise.
    Cpuid,
    /// A clock.
    Clock,
    /// A clock, and CPUID says something else.
    ClockAgainstCpuid,
}

/// Chooses between what CPUID says and what was measured: emulators let CPUID tell of a real CPU and run at another rate.
#[must_use]
pub fn decide(told: Option<Told>, measured: Option<Rate>) -> Option<(u64, Source)> {
    /// What CPUID says is taken for wrong beyond one part of so many.
    const PART: u64 = 100;
    match (told, measured) {
        (Some(Told::Exact(hertz)), Some(rate)) if hertz.abs_diff(rate.hertz) <= hertz / PART => {
            Some((hertz, Source::Cpuid))
        }
        (Some(Told::Exact(_)), Some(rate)) => Some((rate.hertz, Source::ClockAgainstCpuid)),
        (_, Some(rate)) => Some((rate.hertz, Source::Clock)),
        (Some(Told::Exact(hertz) | Told::Nominal(hertz)), None) => Some((hertz, Source::Cpuid)),
        (None, None) => None,
    }
}

#[cfg(test)]
mod tests;
