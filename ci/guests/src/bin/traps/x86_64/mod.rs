//! x86-64 cases.
#![allow(unsafe_code)] // Every case is an instruction that no safe function offers.

mod control;
mod exceptions;
mod identity;
mod instructions;
mod nothing;
mod registers;
mod user;

use xenolith_guests::arch::{Fault, exception};
use xenolith_guests::ensure;
use xenolith_guests::report::Outcome;

type Case = (&'static str, fn() -> Outcome);

pub(crate) const TABLES: &[&[Case]] = &[
    identity::CASES,
    registers::CASES,
    control::CASES,
    nothing::CASES,
    instructions::CASES,
    exceptions::CASES,
    user::CASES,
];

/// Expects a fault of this vector and error code.
pub(crate) fn faulted(what: &str, fault: Option<Fault>, vector: u64, error: u64) -> Outcome {
    let as_expected = fault.is_some_and(|fault| (fault.vector, fault.error) == (vector, error));
    ensure!(
        as_expected,
        "{what}: {fault:x?}, expected {vector} error {error:#x}"
    );
    Ok(())
}

/// Expects a general-protection fault with error code 0.
pub(crate) fn protection(what: &str, fault: Option<Fault>) -> Outcome {
    faulted(what, fault, exception::PROTECTION, 0)
}

/// Expects an undefined instruction.
pub(crate) fn undefined(what: &str, fault: Option<Fault>) -> Outcome {
    faulted(what, fault, exception::UNDEFINED, 0)
}
