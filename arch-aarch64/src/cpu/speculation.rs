//! Speculation: what the firmware does for a CPU, for Xenolith itself and as guests see it (Arm DEN 0028, `SMCCC_ARCH_*`).
//!
//! Each CPU asks the firmware once, when it joins, and picks its vectors by the answer: a CPU that needs nothing runs
//! vectors that do nothing. Where a CPU needs it, every exit from a guest calls the firmware before anything that a
//! branch predictor could steer, so neither Xenolith nor the next guest runs on what a guest taught it. A guest's own
//! call has so been served by the time that it is looked at.

use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// `SMCCC_ARCH_WORKAROUND_1`: forget what branch predictors learned (CVE-2017-5715).
pub const WORKAROUND_1: u32 = 0x8000_8000;
/// `SMCCC_ARCH_WORKAROUND_2`: switch the mitigation of speculative store bypass (CVE-2018-3639).
pub const WORKAROUND_2: u32 = 0x8000_7fff;
/// `SMCCC_ARCH_WORKAROUND_3`: forget branch history too (CVE-2022-23960).
pub const WORKAROUND_3: u32 = 0x8000_3fff;

/// The answers of `SMCCC_ARCH_FEATURES` that mean "this CPU needs it", "this CPU does not" and "no CPU does".
const NEEDED: i64 = 0;
const NOT_NEEDED_HERE: i64 = 1;
const NOT_REQUIRED: i64 = -2;
const NOT_SUPPORTED: i64 = -1;

/// What the firmware answers about the three calls on one CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offers {
    /// About [`WORKAROUND_1`].
    pub branches: i64,
    /// About [`WORKAROUND_2`].
    pub stores: i64,
    /// About [`WORKAROUND_3`].
    pub history: i64,
}

/// What the vectors of a CPU do first at an exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtExit {
    /// Nothing.
    Nothing,
    /// [`WORKAROUND_1`].
    ForgetBranches,
    /// [`WORKAROUND_3`], which does what [`WORKAROUND_1`] does as well.
    ForgetHistory,
}

/// What one CPU has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// At every exit from a guest.
    pub at_exit: AtExit,
    /// Once: switch the mitigation of speculative store bypass on, for ever.
    pub stores: bool,
}

impl Offers {
    /// `pfr0` is the CPU's ID_AA64PFR0_EL1: with CSV2, branch targets do not carry over between contexts.
    #[must_use]
    pub fn plan(self, pfr0: u64) -> Plan {
        let at_exit = if self.history == NEEDED {
            AtExit::ForgetHistory
        } else if self.branches == NEEDED && pfr0 >> 56 & 0xf == 0 {
            AtExit::ForgetBranches
        } else {
            AtExit::Nothing
        };
        Plan {
            at_exit,
            stores: self.stores == NEEDED,
        }
    }
}

/// What all CPUs that joined said together.
pub struct Machine(AtomicU32);

/// Some CPU forgets branches, or history with branches, at exits.
const BRANCHES: u32 = 1 << 0;
const HISTORY: u32 = 1 << 1;
/// Some CPU joined whose stores are taken care of: mitigated for ever, or never in need.
const STORES_SAFE: u32 = 1 << 2;
/// Some CPU joined of whose stores the firmware knows nothing.
const STORES_UNKNOWN: u32 = 1 << 3;

impl Machine {
    /// No CPU has joined.
    #[must_use]
    pub const fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    /// Counts a CPU in.
    pub fn join(&self, offers: Offers, plan: Plan) {
        let exits = match plan.at_exit {
            AtExit::Nothing => 0,
            AtExit::ForgetBranches => BRANCHES,
            AtExit::ForgetHistory => BRANCHES | HISTORY,
        };
        let stores = match offers.stores {
            NEEDED | NOT_NEEDED_HERE | NOT_REQUIRED => STORES_SAFE,
            _ => STORES_UNKNOWN,
        };
        self.0.fetch_or(exits | stores, Relaxed);
    }

    /// What a guest gets from `SMCCC_ARCH_FEATURES` about one of the three calls; `None` for any other. A vCPU may run on
    /// any CPU, so one CPU that needs a call makes it needed. Nobody is told "not needed here", as by Xen.
    #[must_use]
    pub fn answer(&self, function: u32) -> Option<i64> {
        let known = self.0.load(Relaxed);
        let offered = |bit| {
            if known & bit != 0 {
                NEEDED
            } else {
                NOT_SUPPORTED
            }
        };
        Some(match function {
            WORKAROUND_1 => offered(BRANCHES),
            WORKAROUND_3 => offered(HISTORY),
            // Always on, where it is needed: nothing is left for a guest to do.
            WORKAROUND_2 if known & (STORES_SAFE | STORES_UNKNOWN) == STORES_SAFE => NOT_REQUIRED,
            WORKAROUND_2 => NOT_SUPPORTED,
            _ => return None,
        })
    }
}

impl Default for Machine {
    fn default() -> Self {
        Self::new()
    }
}

/// This machine.
pub static MACHINE: Machine = Machine::new();

#[cfg(test)]
mod tests {
    use super::*;

    const SILENT: Offers = Offers {
        branches: NOT_SUPPORTED,
        stores: NOT_SUPPORTED,
        history: NOT_SUPPORTED,
    };
    const CSV2: u64 = 1 << 56;

    /// What guests are told about the three calls after these CPUs joined.
    fn told(cpus: &[Offers]) -> [Option<i64>; 3] {
        let machine = Machine::new();
        for cpu in cpus {
            machine.join(*cpu, cpu.plan(0));
        }
        [WORKAROUND_1, WORKAROUND_2, WORKAROUND_3].map(|call| machine.answer(call))
    }

    #[test]
    fn a_cpu_whose_firmware_offers_nothing_does_nothing_and_guests_are_offered_nothing() {
        let plan = SILENT.plan(0);
        assert_eq!((plan.at_exit, plan.stores), (AtExit::Nothing, false));
        assert_eq!(told(&[SILENT]), [Some(-1); 3]);
        assert_eq!(Machine::new().answer(0x8000_0000), None);
    }

    #[test]
    fn the_stronger_call_is_made_where_both_are_needed() {
        let both = Offers {
            branches: 0,
            history: 0,
            ..SILENT
        };
        assert_eq!(both.plan(0).at_exit, AtExit::ForgetHistory);
        assert_eq!(told(&[both]), [Some(0), Some(-1), Some(0)]);
        let old_firmware = Offers {
            branches: 0,
            ..SILENT
        };
        assert_eq!(old_firmware.plan(0).at_exit, AtExit::ForgetBranches);
        assert_eq!(told(&[old_firmware]), [Some(0), Some(-1), Some(-1)]);
    }

    #[test]
    fn a_cpu_that_needs_no_call_makes_none() {
        let not_here = Offers {
            branches: NOT_NEEDED_HERE,
            history: NOT_NEEDED_HERE,
            stores: NOT_NEEDED_HERE,
        };
        assert_eq!(not_here.plan(0).at_exit, AtExit::Nothing);
        assert!(!not_here.plan(0).stores);
        let branches = Offers {
            branches: 0,
            ..SILENT
        };
        assert_eq!(branches.plan(CSV2).at_exit, AtExit::Nothing);
    }

    #[test]
    fn one_cpu_in_need_makes_the_call_known_to_guests() {
        let needy = Offers {
            branches: 0,
            stores: 0,
            history: 0,
        };
        let fine = Offers {
            branches: 1,
            stores: NOT_REQUIRED,
            history: 1,
        };
        assert!(needy.plan(0).stores);
        assert_eq!(told(&[fine, needy]), [Some(0), Some(-2), Some(0)]);
        assert_eq!(told(&[fine, SILENT]), [Some(-1); 3], "one CPU is unknown");
    }
}
