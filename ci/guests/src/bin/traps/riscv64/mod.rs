//! RISC-V cases. On the bare machine they run too: what its firmware or its CPU, which has the hypervisor extension, answers
//! in its own way is printed there as a value.
#![allow(unsafe_code)] // Every case is an instruction that no safe function offers.

mod calls;
mod clock;
mod devices;
mod fp;
mod instructions;
mod last;
mod nothing;
mod registers;
mod sleep;
mod user;

use xenolith_guests::arch::{Fault, cause, read16, sbi};
use xenolith_guests::report::{Outcome, value};
use xenolith_guests::{ensure, expect};

type Case = (&'static str, fn() -> Outcome);

pub(crate) const TABLES: &[&[Case]] = &[
    registers::CASES,
    instructions::CASES,
    nothing::CASES,
    devices::CASES,
    user::CASES,
    fp::CASES,
    sleep::CASES,
    clock::CASES,
    calls::CASES,
    last::CASES,
];

/// In a hole of the board's map.
pub(crate) const NOTHING: u64 = 0x1f00_0000;

/// Expects a fault of this cause with this address, or no fault's.
pub(crate) fn faulted(what: &str, fault: Option<Fault>, cause: u64, address: u64) -> Outcome {
    let as_expected = fault.is_some_and(|fault| (fault.cause, fault.value) == (cause, address));
    ensure!(
        as_expected,
        "{what}: {fault:x?}, expected {cause} at {address:#x}"
    );
    Ok(())
}

/// Expects an illegal instruction, of which it tells the bits or nothing.
pub(crate) fn illegal(what: impl core::fmt::Display, fault: Option<Fault>, bits: u32) -> Outcome {
    let as_expected = fault.is_some_and(|fault| {
        fault.cause == cause::ILLEGAL && (fault.value == 0 || fault.value == u64::from(bits))
    });
    ensure!(as_expected, "{what}: {fault:x?}, of {bits:#x}");
    Ok(())
}

/// The same of an instruction of 32 bits in the guest's own code.
pub(crate) fn illegal_here(what: &str, fault: Option<Fault>) -> Outcome {
    let bits = fault.map_or(0, |fault| {
        u32::from(read16(fault.pc)) | u32::from(read16(fault.pc + 2)) << 16
    });
    illegal(what, fault, bits)
}

/// Expects it of the hypervisor; firmware may have its own answer.
pub(crate) fn says(what: &str, got: i64, wanted: i64) -> Outcome {
    if sbi::is_bare() {
        value(what, got);
    } else {
        expect!(got, wanted, "{what}");
    }
    Ok(())
}
