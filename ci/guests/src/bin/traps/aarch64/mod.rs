//! AArch64 cases.
#![allow(unsafe_code)] // Every case is an instruction that no safe function offers.

mod calls;
mod devices;
mod identity;
mod nothing;
mod registers;
mod sleep;

use xenolith_guests::report::Outcome;

type Case = (&'static str, fn() -> Outcome);

pub(crate) const TABLES: &[&[Case]] = &[
    identity::CASES,
    registers::CASES,
    nothing::CASES,
    devices::CASES,
    calls::CASES,
    sleep::CASES,
];

/// Reads a system register: its value, or the fault that the read gave.
macro_rules! read {
    ($name:literal) => {{
        let mut number: u64 = 0;
        let fault = xenolith_guests::arch::fault_of(|| {
            // SAFETY: a register read; a fault is expected and skipped.
            unsafe { core::arch::asm!(concat!("mrs {}, ", $name), inout(reg) number, options(nostack)) }
        });
        match fault {
            None => Ok(number),
            Some(fault) => Err(fault),
        }
    }};
}

/// Writes a system register: the fault that the write gave, if it did.
macro_rules! write {
    ($name:literal, $value:expr) => {
        xenolith_guests::arch::fault_of(|| {
            // SAFETY: a register write that the case chose to be harmless; a fault is expected and skipped.
            unsafe { core::arch::asm!(concat!("msr ", $name, ", {}"), in(reg) $value as u64, options(nostack)) }
        })
    };
}

pub(crate) use {read, write};
