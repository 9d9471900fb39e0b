//! Random use of what only RISC-V has. With `machine=1` on the command line: every control and status register is read and
//! those that this guest can do without are given random values, and calls of the SBI have random arguments. With `code=N`: N
//! runs of random instructions in user mode.
#![allow(unsafe_code)] // Some cases run bytes that are no function.

use xenolith_guests::arch::sbi::{self, extension, hsm};
use xenolith_guests::arch::{self, Access, cause, fault_of_code};
use xenolith_guests::bootargs;
use xenolith_guests::buffer::Page;
use xenolith_guests::console;
use xenolith_guests::ensure;
use xenolith_guests::report::{Outcome, value};

use super::words::Words;
use super::{DEFAULT_SEED, still_answers};

pub(crate) const CASES: &[(&str, fn() -> Outcome)] = &[
    ("fuzz.every_register", every_register),
    ("fuzz.firmware_calls", firmware_calls),
    ("fuzz.random_code", random_code),
];

const REGISTERS: u32 = 4096;
const FIRMWARE_CALLS: u64 = 100_000;
const INSTRUCTIONS: usize = 8;
const EXTENSIONS: [u64; 7] = [
    extension::BASE,
    extension::TIME,
    extension::IPI,
    extension::RFENCE,
    extension::HSM,
    extension::SRST,
    extension::DBCN,
];

fn words() -> Words {
    Words::new(bootargs::number("seed", DEFAULT_SEED), Page::take(), 1, 0)
}

fn is_asked_for() -> bool {
    bootargs::number("machine", 0) != 0
}

/// Status, interrupts, vector, and tables.
fn is_vital(csr: u32) -> bool {
    matches!(csr, 0x100 | 0x104 | 0x105 | 0x144 | 0x180)
}

/// CSRRS a0, csr, x0.
fn read(csr: u32) -> [u32; 1] {
    [csr << 20 | 2 << 12 | 10 << 7 | 0x73]
}

/// CSRRW a0, csr, a0, or one that sets or clears bits.
fn change(csr: u32, kind: u32) -> [u32; 1] {
    [csr << 20 | 10 << 15 | kind << 12 | 10 << 7 | 0x73]
}

fn every_register() -> Outcome {
    if !is_asked_for() || sbi::is_bare() {
        return Ok(());
    }
    let mut words = words();
    let (mut reads, mut writes) = (0, 0);
    arch::irq_off();
    for csr in 0..REGISTERS {
        let fault = fault_of_code(&read(csr), 0);
        ensure!(
            fault.is_none_or(|fault| fault.cause == cause::ILLEGAL),
            "read of {csr:#x}: {fault:x?}"
        );
        reads += i64::from(fault.is_none());
        if is_vital(csr) {
            continue;
        }
        for kind in [1, 2, 3, 1] {
            let fault = fault_of_code(&change(csr, kind), words.word());
            ensure!(
                fault.is_none_or(|fault| fault.cause == cause::ILLEGAL),
                "write of {csr:#x}: {fault:x?}"
            );
            writes += i64::from(fault.is_none());
        }
    }
    arch::timer_off();
    value("fuzz.registers_that_read", reads);
    value("fuzz.register_writes_that_were_taken", writes);
    still_answers()
}

/// Calls that end or stop this hart, or start others in what is no code of theirs, are left out; so is what is typed, which
/// may be written anywhere.
fn firmware_calls() -> Outcome {
    const READ: u64 = 1;
    if !is_asked_for() {
        return Ok(());
    }
    let mut words = words();
    let (mut done, mut refused) = (0, 0);
    arch::irq_off();
    for _ in 0..FIRMWARE_CALLS {
        let number = match words.below(8) {
            0 => words.word(),
            1 => words.random() & 0xffff_ffff,
            _ => EXTENSIONS[words.below(EXTENSIONS.len() as u64) as usize],
        };
        let function = if words.once_in(8) {
            words.word()
        } else {
            words.below(8)
        };
        let mut args: [u64; 5] = core::array::from_fn(|_| words.word());
        match (number, function) {
            (extension::SRST, 0) => args[0] |= 1 << 31,
            (extension::HSM, hsm::START) => args[0] |= 1 << 20,
            (extension::HSM, hsm::STOP | hsm::SUSPEND) => continue,
            (extension::DBCN, READ) => continue,
            // Nothing is printed.
            (extension::DBCN, 0) => args[0] = 0,
            (extension::DBCN, _) => continue,
            (extension::XEN, _) | (0..=8, _) => continue,
            _ => {}
        }
        let answer = sbi::call(number, function, args);
        if answer.error < 0 {
            refused += 1
        } else {
            done += 1
        }
    }
    arch::clear_software();
    arch::timer_off();
    value("fuzz.firmware_calls_done", done);
    value("fuzz.firmware_calls_refused", refused);
    still_answers()
}

/// In user mode, with a page to write to, until something traps; a loop ends by the timer.
fn random_code() -> Outcome {
    let runs = bootargs::number("code", 0);
    if runs == 0 {
        return Ok(());
    }
    let mut words = words();
    let page = Page::take();
    let at = arch::map_page(0, page.address(), Access::User);
    let mut causes = [0i64; 64];
    arch::irq_off();
    arch::on_timer(|_| arch::timer_off());
    for run in 0..runs {
        let code: [u32; INSTRUCTIONS] = core::array::from_fn(|_| random_instruction(&mut words));
        if bootargs::number("trace", u64::MAX) <= run {
            console::line(format_args!("[guest] code {run} {code:x?}"));
        }
        arch::timer_at(arch::now() + arch::ticks_per_second() / 1000);
        let user = arch::user_code_until(&code, at, true);
        causes[user.cause as usize % 64] += 1;
    }
    arch::timer_off();
    arch::unmap_page(0);
    for (cause, count) in (0..).zip(causes).filter(|&(_, count)| count != 0) {
        value(format_args!("fuzz.code_ended_by_{cause}"), count);
    }
    still_answers()
}

/// Most random words are no instructions: half are made of an opcode that is one.
fn random_instruction(words: &mut Words) -> u32 {
    const OPCODES: [u32; 14] = [
        0x03, 0x07, 0x0f, 0x13, 0x17, 0x1b, 0x23, 0x27, 0x2f, 0x33, 0x3b, 0x53, 0x63, 0x73,
    ];
    let word = words.random() as u32;
    if words.once_in(2) {
        return word;
    }
    let opcode = OPCODES[words.below(OPCODES.len() as u64) as usize];
    word & !0x7f | opcode
}
