//! Instructions that are not for S-mode: M-mode's returns, the hypervisor extension's loads, stores and fences, what the CPU
//! does not have.

use xenolith_guests::arch::{
    self, cause, fault_of, fault_of_code, interrupt, read64, sbi, write64,
};
use xenolith_guests::buffer::Page;
use xenolith_guests::report::value;
use xenolith_guests::{cpus, ensure, expect};

use super::{Case, NOTHING, Outcome, faulted, illegal};

pub(crate) const CASES: &[Case] = &[
    ("instructions.of_the_machine", machine),
    ("instructions.of_the_hypervisor", hypervisor),
    ("instructions.of_the_hypervisor_after_a_wait", after_a_wait),
    ("instructions.of_nobody", nobody),
    ("instructions.breakpoint", breakpoint),
    ("instructions.fences_of_the_supervisor", fences),
    ("instructions.with_many_vectors", many_vectors),
    ("instructions.thousand_times", thousand),
];

pub(crate) const MRET: u32 = 0x3020_0073;
pub(crate) const HFENCE_GVMA: u32 = 0x6200_0073;
const MACHINE: [(&str, u32); 3] = [
    ("mret", MRET),
    ("mnret", 0x7020_0073),
    ("dret", 0x7b20_0073),
];
/// The address is in a0, what is stored in a1.
pub(crate) const HYPERVISOR: [(&str, u32); 10] = [
    ("hfence.vvma", 0x2200_0073),
    ("hfence.gvma", HFENCE_GVMA),
    ("hlv.b a1, (a0)", 0x6005_45f3),
    ("hlv.h a1, (a0)", 0x6405_45f3),
    ("hlv.w a1, (a0)", 0x6805_45f3),
    ("hlv.d a1, (a0)", 0x6c05_45f3),
    ("hlvx.hu a1, (a0)", 0x6435_45f3),
    ("hlvx.wu a1, (a0)", 0x6835_45f3),
    ("hsv.b a1, (a0)", 0x62b5_4073),
    ("hsv.d a1, (a0)", 0x6eb5_4073),
];
const NOBODY: [(&str, u32); 5] = [
    ("uret", 0x0020_0073),
    ("custom-0", 0x0000_000b),
    ("custom-1", 0x0000_002b),
    ("all ones", 0xffff_ffff),
    ("an odd system instruction", 0x8000_0073),
];
const EBREAK: u32 = 0x0010_0073;

fn all_illegal(list: &[(&str, u32)], argument: u64) -> Outcome {
    for &(name, code) in list {
        illegal(name, fault_of_code(&[code], argument), code)?;
    }
    Ok(())
}

fn machine() -> Outcome {
    all_illegal(&MACHINE, 0)
}

fn hypervisor() -> Outcome {
    if sbi::is_bare() {
        return Ok(());
    }
    let page = Page::take();
    write64(page.address(), 1);
    all_illegal(&HYPERVISOR, page.address())?;
    expect!(read64(page.address()), 1, "stored");
    Ok(())
}

/// What trapped last was another instruction: the hypervisor does not take the one for the other.
fn after_a_wait() -> Outcome {
    if sbi::is_bare() {
        return Ok(());
    }
    arch::irq_off();
    arch::on_timer(|_| arch::timer_off());
    for (name, code) in HYPERVISOR {
        arch::timer_at(arch::now() + arch::ticks_per_second() / 10_000);
        arch::wait();
        let fault = fault_of_code(&[code], arch::image().start);
        arch::irq_on();
        arch::irq_off();
        illegal(name, fault, code)?;
    }
    Ok(())
}

fn nobody() -> Outcome {
    all_illegal(&NOBODY, 0)
}

fn breakpoint() -> Outcome {
    let fault = fault_of_code(&[EBREAK], 0);
    ensure!(
        fault.is_some_and(|fault| fault.cause == cause::BREAKPOINT),
        "{fault:x?}"
    );
    value(
        "instructions.breakpoint_value_is_its_address",
        fault.map_or(0, |fault| i64::from(fault.value == fault.pc)),
    );
    Ok(())
}

fn fences() -> Outcome {
    // SFENCE.VMA of all, of one address, of one address space, of both; FENCE.I; FENCE.
    for code in [
        0x1200_0073,
        0x1205_0073,
        0x12b0_0073,
        0x12b5_0073,
        0x100f,
        0x0ff0_000f,
    ] {
        let fault = fault_of_code(&[code], 0);
        ensure!(fault.is_none(), "{code:#x}: {fault:x?}");
    }
    Ok(())
}

/// Where the vectors have their mode in the low bits, an exception goes to the first of them all the same. (OpenSBI 1.1 takes
/// the bits for a part of the address.)
fn many_vectors() -> Outcome {
    if sbi::is_bare() {
        return Ok(());
    }
    let (mut of_code, mut of_load, mut fired) = (None, None, false);
    arch::irq_off();
    arch::on_timer(|_| arch::timer_off());
    arch::with_many_vectors(|| {
        of_code = fault_of_code(&[MRET], 0);
        of_load = fault_of(|| {
            arch::read32(NOTHING);
        });
        arch::timer_at(arch::now());
        arch::irq_on();
        fired = cpus::wait_for(|| !arch::is_pending(interrupt::TIMER));
        arch::irq_off();
    });
    illegal("mret", of_code, MRET)?;
    faulted("load", of_load, cause::LOAD_ACCESS, NOTHING)?;
    ensure!(fired, "the timer");
    Ok(())
}

fn thousand() -> Outcome {
    for _ in 0..1000 {
        illegal("mret", fault_of_code(&[MRET], 0), MRET)?;
    }
    Ok(())
}
