//! Injected failures: a test arms the switch, and the chosen allocation fails.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

const OFF: u64 = u64::MAX;

/// Decides which allocations fail. The simulated p2m asks it before each table frame; tests that own other allocation
/// points ask it with [`Faults::fires`].
pub struct Faults {
    /// Allocations that still succeed before one fails.
    countdown: AtomicU64,
    /// Every how many allocations one fails; 0 for none.
    period: AtomicU64,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            countdown: AtomicU64::new(OFF),
            period: AtomicU64::new(0),
        }
    }
}

impl Faults {
    /// Lets `successes` allocations pass, then fails one.
    pub fn fail_after(&self, successes: u64) {
        self.period.store(0, SeqCst);
        self.countdown.store(successes, SeqCst);
    }

    /// Fails every `period`-th allocation.
    pub fn fail_every(&self, period: u64) {
        self.period.store(period, SeqCst);
        self.countdown.store(period.saturating_sub(1), SeqCst);
    }

    /// Nothing fails any more.
    pub fn off(&self) {
        self.period.store(0, SeqCst);
        self.countdown.store(OFF, SeqCst);
    }

    /// True when the allocation that asks must fail.
    pub fn fires(&self) -> bool {
        let period = self.period.load(SeqCst);
        let next = self
            .countdown
            .fetch_update(SeqCst, SeqCst, |count| match count {
                OFF => None,
                0 if period == 0 => Some(OFF),
                0 => Some(period - 1),
                count => Some(count - 1),
            });
        next == Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_armed_switch_fails_one_allocation_and_rests() {
        let faults = Faults::default();
        assert!(!faults.fires());
        faults.fail_after(1);
        let got: Vec<_> = (0..4).map(|_| faults.fires()).collect();
        assert_eq!(got, [false, true, false, false]);
    }

    #[test]
    fn a_periodic_switch_goes_on_until_it_is_off() {
        let faults = Faults::default();
        faults.fail_every(2);
        let got: Vec<_> = (0..4).map(|_| faults.fires()).collect();
        assert_eq!(got, [false, true, false, true]);
        faults.off();
        assert!(!faults.fires());
        assert!(!faults.fires());
    }
}
