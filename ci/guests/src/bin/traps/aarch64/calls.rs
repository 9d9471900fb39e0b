//! SMC and HVC from the guest: who answers, and what an odd immediate gives.

use core::arch::asm;

use xenolith_guests::arch::{class, fault_of, psci, smccc};
use xenolith_guests::report::value;
use xenolith_guests::{ensure, expect};

use super::{Case, Outcome};

pub(crate) const CASES: &[Case] = &[
    ("calls.smc_0", smc),
    ("calls.smc_with_an_immediate", smc_immediate),
    ("calls.hvc_with_an_immediate", hvc_immediate),
    ("calls.speculation", speculation),
    ("calls.hvc_keeps_the_other_registers", keeps_registers),
];

fn smc() -> Outcome {
    let mut x0 = u64::from(psci::VERSION);
    let fault = fault_of(|| {
        // SAFETY: SMCCC; PSCI version.
        unsafe {
            asm!("smc #0", inout("x0") x0, out("x1") _, out("x2") _, out("x3") _, out("x4") _, out("x5") _,
                 out("x6") _, out("x7") _, out("x16") _, out("x17") _)
        }
    });
    match fault {
        Some(fault) => expect!(fault.class(), class::UNKNOWN),
        None => expect!(x0 as i64, smccc(psci::VERSION, 0, 0, 0)),
    }
    value("calls.smc_faults", i64::from(fault.is_some()));
    Ok(())
}

fn smc_immediate() -> Outcome {
    // SAFETY: an SMC that nobody serves.
    let fault = fault_of(|| unsafe { asm!("smc #1234", inout("x0") 0u64 => _) });
    ensure!(
        fault.is_some_and(|fault| fault.class() == class::UNKNOWN),
        "{fault:?}"
    );
    Ok(())
}

fn hvc_immediate() -> Outcome {
    // SAFETY: an HVC that nobody serves; SMCCC registers may change.
    let fault =
        fault_of(|| unsafe { asm!("hvc #1234", inout("x0") 0u64 => _, inout("x16") 17u64 => _) });
    // The HVC itself is done: the fault, if any, is at the instruction behind it.
    value(
        "calls.hvc_1234_fault_class",
        fault.map_or(-1, |fault| fault.class() as i64),
    );
    Ok(())
}

/// The calls by which a kernel works around speculation: they have no result and leave the guest as it was.
fn speculation() -> Outcome {
    for function in [0x8000_8000_u32, 0x8000_7fff, 0x8000_3fff] {
        let (x4, x17): (u64, u64);
        // SAFETY: SMCCC 1.1: only x0 to x3 change.
        unsafe {
            asm!("hvc #0", inout("x0") u64::from(function) => _, inout("x1") 1u64 => _, out("x2") _, out("x3") _,
                 inout("x4") 4u64 => x4, inout("x17") 17u64 => x17)
        }
        expect!([x4, x17], [4, 17], "function {function:#x}");
    }
    Ok(())
}

/// x18 to x30 and the arguments beyond those of the call come back as they were.
fn keeps_registers() -> Outcome {
    let (x5, x6, x7, x17, x20, x28): (u64, u64, u64, u64, u64, u64);
    // SAFETY: xen_version 0.
    unsafe {
        asm!("hvc #0xea1", inout("x0") 0u64 => _, inout("x1") 0u64 => _, inout("x2") 0u64 => _,
             inout("x3") 0u64 => _, inout("x4") 0u64 => _, inout("x16") 17u64 => _,
             inout("x5") 5u64 => x5, inout("x6") 6u64 => x6, inout("x7") 7u64 => x7,
             inout("x17") 17u64 => x17, inout("x20") 20u64 => x20, inout("x28") 28u64 => x28)
    };
    expect!([x5, x6, x7, x17, x20, x28], [5, 6, 7, 17, 20, 28]);
    Ok(())
}
