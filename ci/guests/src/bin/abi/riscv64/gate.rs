//! The hypercall gate: ECALL in the SBI's space for Xen, the number in a6, the arguments from a1 on.
#![allow(unsafe_code)] // The cases make the call themselves.

use core::arch::asm;

use xenolith_guests::arch::sbi::{self, base, extension};
use xenolith_guests::arch::{self, hypercall};
use xenolith_guests::expect;
use xenolith_guests::xen::errno::{EFAULT, ENOSYS};
use xenolith_guests::xen::{event, nr};

use crate::{Case, Outcome};

pub(crate) const CASES: &[Case] = &[
    (
        "gate.the_first_argument_register_does_not_count",
        first_register,
    ),
    ("gate.numbers_are_of_64_bits", wide_numbers),
    ("gate.firmware_says_who_it_is", who),
    ("gate.neighbours_of_the_extension", neighbours),
];

/// A call with something in a0.
fn with_a0(a0: u64, number: u64, args: [u64; 2]) -> i64 {
    let result: u64;
    // SAFETY: as `arch::hypercall`.
    unsafe {
        asm!("ecall", inout("a0") a0 => result, inout("a1") args[0] => _, inout("a2") args[1] => _,
             inout("a3") 0u64 => _, inout("a4") 0u64 => _, inout("a5") 0u64 => _,
             in("a6") number, in("a7") extension::XEN)
    };
    result as i64
}

fn first_register() -> Outcome {
    let version = hypercall(nr::XEN_VERSION, [0; 5]);
    for a0 in [0, 1, u64::MAX, arch::UNMAPPED] {
        expect!(with_a0(a0, nr::XEN_VERSION, [0, 0]), version, "a0 {a0:#x}");
        let close = with_a0(a0, nr::EVENT_CHANNEL_OP, [event::op::CLOSE, arch::UNMAPPED]);
        expect!(close, EFAULT, "a0 {a0:#x}");
    }
    Ok(())
}

fn wide_numbers() -> Outcome {
    for number in [
        1 << 32 | nr::XEN_VERSION,
        1 << 63 | nr::XEN_VERSION,
        u64::MAX,
    ] {
        expect!(hypercall(number, [0; 5]), ENOSYS, "number {number:#x}");
    }
    Ok(())
}

fn who() -> Outcome {
    const XEN: i64 = 7;
    let answer = sbi::call(extension::BASE, base::IMPLEMENTATION, [0; 5]);
    expect!((answer.error, answer.value), (0, XEN));
    Ok(())
}

/// Other implementations' spaces are nobody's here.
fn neighbours() -> Outcome {
    for number in [
        extension::XEN - 1,
        extension::XEN + 1,
        extension::XEN | 1 << 32,
    ] {
        let error = sbi::error_of(number, nr::XEN_VERSION, [0; 3]);
        expect!(error, sbi::error::NOT_SUPPORTED, "extension {number:#x}");
    }
    Ok(())
}
