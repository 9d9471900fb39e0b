//! Random use of what only PV guests have, a few turns each unless the words say how many: `frames=N` random frames
//! for `iret`, `code=N` random instructions as user code, one at a time. With `fault=1`: at the end an exception without
//! a handler, with `fault=2`: one whose handler has no stack.
#![allow(unsafe_code)] // Runs bytes that are no function.

use core::arch::asm;

use xenolith_guests::arch::user::{self, CODE, Iret, STACK_TOP};
use xenolith_guests::arch::{self, exception, trap};
use xenolith_guests::bootargs;
use xenolith_guests::buffer::Page;
use xenolith_guests::console;
use xenolith_guests::report::{Outcome, value};

use super::words::Words;
use super::{DEFAULT_SEED, still_answers};

pub(crate) const CASES: &[(&str, fn() -> Outcome)] = &[
    ("fuzz.random_frames", random_frames),
    ("fuzz.random_code", random_code),
    ("fuzz.last_fault", last_fault),
];

const TURNS: u64 = 2000;

fn words() -> Words {
    Words::new(bootargs::number("seed", DEFAULT_SEED), Page::take(), 1, 0)
}

/// Whether the turn is to be printed.
fn is_traced(turn: u64) -> bool {
    turn >= bootargs::number("trace", u64::MAX)
}

/// User code goes on with odd flags, selectors, addresses and stacks; whatever comes of it, the kernel gets it.
fn random_frames() -> Outcome {
    let mut words = words();
    user::use_root();
    // Whatever is run there, it is a trap, or a system call.
    let mut code = [0xcc; 64];
    (code[16], code[17], code[32], code[33]) = (0x0f, 0x05, 0xcd, 0x80);
    user::load(&code);
    let (mut traps, mut failsafes) = (0i64, 0i64);
    for turn in 0..bootargs::number("frames", TURNS) {
        let mut frame = Iret::USER;
        let number = |words: &mut Words| match words.below(6) {
            0 => words.bad_pointer(),
            1 => CODE + words.below(4096),
            2 => STACK_TOP - words.below(64),
            3 => 1 << words.below(64),
            4 => words.random(),
            _ => words.word(),
        };
        let selector = |words: &mut Words| match words.below(6) {
            0 => 0xe023,
            1 => 0xe02b,
            2 => 0xe033,
            3 => words.below(64),
            4 => 0xe000 + words.below(256),
            _ => words.random() & 0xffff,
        };
        for _ in 0..1 + words.below(3) {
            match words.below(7) {
                0 => frame.rip = number(&mut words),
                // Ring 3 is user code; the kernel's own would run the user's bytes with its rights.
                1 => frame.cs = selector(&mut words) | 3,
                2 => frame.ss = selector(&mut words),
                3 => frame.rsp = number(&mut words),
                4 => frame.rflags = words.random(),
                5 => frame.rflags = 0x202 | 1 << words.below(22),
                _ => frame.flags = words.word(),
            }
        }
        if is_traced(turn) {
            console::line(format_args!("[guest] frame {turn} {frame:x?}"));
        }
        if let Some(fault) = user::iret(&frame, words.word()) {
            traps += 1;
            failsafes += i64::from(fault.vector == trap::FAILSAFE);
        }
    }
    value("fuzz.frames_that_trapped", traps);
    value("fuzz.frames_that_failed", failsafes);
    still_answers()
}

fn random_code() -> Outcome {
    let turns = bootargs::number("code", TURNS);
    let mut words = words();
    let mut faults = 0;
    user::use_root();
    for turn in 0..turns {
        let mut code = [0xcc; 32];
        for byte in &mut code[..16] {
            *byte = words.random() as u8;
        }
        if is_traced(turn) {
            console::line(format_args!("[guest] code {turn} {code:x?}"));
        }
        user::load(&code);
        // One step: a trap behind the first instruction, or in it.
        let frame = Iret {
            rflags: 0x302,
            rax: words.word(),
            rcx: words.word(),
            r11: words.word(),
            ..Iret::USER
        };
        let fault = user::iret(&frame, words.word());
        faults += i64::from(fault.is_some_and(|fault| fault.vector != exception::DEBUG));
    }
    value("fuzz.instructions_that_faulted", faults);
    still_answers()
}

/// An exception that reaches no handler: nothing of this guest comes after it.
fn last_fault() -> Outcome {
    match bootargs::number("fault", 0) {
        0 => Ok(()),
        1 => {
            arch::hypercall(xenolith_guests::xen::nr::SET_TRAP_TABLE, [0; 5]);
            // SAFETY: it ends the domain, which is what was asked for.
            unsafe { asm!("ud2", options(noreturn)) }
        }
        // SAFETY: as above.
        _ => unsafe { asm!("mov rsp, {}", "ud2", in(reg) arch::UNMAPPED, options(noreturn)) },
    }
}
