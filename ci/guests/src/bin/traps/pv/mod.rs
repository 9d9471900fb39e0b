//! Cases of PV guests: instructions that ring 3 may not execute and the hypervisor does for the kernel, and those that it
//! lets through.
#![allow(unsafe_code)] // Every case is an instruction that no safe function offers.

mod control;
mod instructions;
mod ports;
mod registers;

use xenolith_guests::arch::fault_of;
use xenolith_guests::report::Outcome;

type Case = (&'static str, fn() -> Outcome);

pub(crate) const TABLES: &[&[Case]] = &[
    control::CASES,
    registers::CASES,
    ports::CASES,
    instructions::CASES,
];

/// Vector and error code of the fault of `f`; `FINE` if there was none.
pub(crate) fn told(f: impl FnOnce()) -> (u64, u64) {
    fault_of(f).map_or(FINE, |fault| (fault.vector, fault.error))
}

pub(crate) const FINE: (u64, u64) = (u64::MAX, 0);
pub(crate) const PROTECTION: (u64, u64) = (13, 0);
pub(crate) const UNDEFINED: (u64, u64) = (6, 0);
