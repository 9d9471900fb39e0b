//! Random use of what only x86-64 has. With `machine=1` on the command line: every model-specific register of the
//! ranges in use is read and given random values, every port is read. With `code=N`: N random instructions
//! run in ring 0, one at a time, which may end this domain but no other. With `fault=1`: at the end a triple fault.
//! With `fault=2`: at the end an exception with a stack where nothing is.
#![allow(unsafe_code)] // Runs bytes that are no function.

use core::arch::asm;

use xenolith_guests::arch::{self, fault_of, regs};
use xenolith_guests::bootargs;
use xenolith_guests::buffer::Page;
use xenolith_guests::console;
use xenolith_guests::report::{Outcome, value};

use super::words::Words;
use super::{DEFAULT_SEED, still_answers};

pub(crate) const CASES: &[(&str, fn() -> Outcome)] = &[
    ("fuzz.every_model_specific_register", every_msr),
    ("fuzz.every_port_reads", every_port),
    ("fuzz.random_code", random_code),
    ("fuzz.last_fault", last_fault),
];

const HALT: u8 = 0xf4;
const NOP: u8 = 0x90;
const RANGES: [(u32, u32); 4] = [
    (0, 0x2000),
    (0x4000_0000, 0x4000_2000),
    (0xc000_0000, 0xc000_2000),
    (0xc001_0000, 0xc001_2000),
];

fn words() -> Words {
    Words::new(bootargs::number("seed", DEFAULT_SEED), Page::take(), 1, 0)
}

fn is_asked_for() -> bool {
    bootargs::number("machine", 0) != 0
}

/// Registers that this guest's own life hangs on: APIC base, interrupt commands and timer, EFER, GS base, and the
/// hypercall page, which writes to memory.
fn is_vital(index: u32) -> bool {
    matches!(index, 0x1b | 0x10 | 0x6e0 | 0x800..=0x8ff | 0x4000_0000..=0x4000_ffff | 0xc000_0080 | 0xc000_0101)
}

fn every_msr() -> Outcome {
    if !is_asked_for() {
        return Ok(());
    }
    let mut words = words();
    let (mut reads, mut writes) = (0, 0);
    for index in RANGES.iter().flat_map(|&(start, end)| start..end) {
        let mut before = 0;
        let readable = fault_of(|| before = regs::rdmsr(index)).is_none();
        reads += i64::from(readable);
        if is_vital(index) {
            continue;
        }
        for _ in 0..4 {
            let number = words.word();
            writes += i64::from(fault_of(|| regs::wrmsr(index, number)).is_none());
        }
        if readable {
            fault_of(|| regs::wrmsr(index, before));
        }
    }
    value("fuzz.msrs_that_read", reads);
    value("fuzz.msr_writes_that_were_taken", writes);
    still_answers()
}

fn every_port() -> Outcome {
    if !is_asked_for() {
        return Ok(());
    }
    let mut ones = 0;
    for port in 0..=u16::MAX {
        let byte = regs::in8(port);
        let word = if port % 2 == 0 {
            regs::in16(port)
        } else {
            u16::MAX
        };
        let long = if port % 4 == 0 {
            regs::in32(port)
        } else {
            u32::MAX
        };
        ones += i64::from((byte, word, long) == (u8::MAX, u16::MAX, u32::MAX));
    }
    value("fuzz.ports_of_nothing", ones);
    still_answers()
}

fn random_code() -> Outcome {
    let runs = bootargs::number("code", 0);
    let mut words = words();
    let mut faults = 0;
    for run in 0..runs {
        let page = Page::at(arch::image().end + (1 << 20));
        page.fill(0xcc);
        for index in 0..16 {
            // A halt with interrupts off ends a domain by definition.
            let byte = words.random() as u8;
            page.write::<u8>(index, if byte == HALT { NOP } else { byte });
        }
        if bootargs::number("trace", u64::MAX) <= run {
            console::line(format_args!(
                "[guest] code {run} {:x?}",
                page.read::<[u8; 16]>(0)
            ));
        }
        let entry = arch::map_page(0, page.address(), arch::Access::Execute);
        // SAFETY: nothing is sure about it; a fault, or the single step behind the instruction, comes back here.
        let fault = fault_of(|| unsafe {
            asm!("mov {stack}, rsp", "push {ss}", "push {stack}", "push 0x102", "push {cs}", "push {entry}", "iretq",
                 stack = out(reg) _, ss = in(reg) u64::from(arch::selector::DATA),
                 cs = in(reg) u64::from(arch::selector::CODE), entry = in(reg) entry,
                 in("rax") words.word(), in("rcx") words.word(), in("rdx") words.word(), in("rdi") words.word())
        });
        faults += i64::from(fault.is_some_and(|fault| fault.vector != arch::exception::DEBUG));
    }
    arch::unmap_page(0);
    value("fuzz.instructions_that_faulted", faults);
    still_answers()
}

/// An exception that reaches no handler: nothing of this guest comes after it.
fn last_fault() -> Outcome {
    /// In the first 4 GiB, which are mapped one to one, above all memory and below all devices.
    const NOTHING: u64 = 0xd000_0000;
    let none = [0u16; 5];
    match bootargs::number("fault", 0) {
        0 => Ok(()),
        // SAFETY: it ends the domain, which is what was asked for.
        1 => unsafe { asm!("lidt [{}]", "ud2", in(reg) &raw const none, options(noreturn)) },
        // SAFETY: as above.
        _ => unsafe { asm!("mov rsp, {}", "ud2", in(reg) NOTHING, options(noreturn)) },
    }
}
