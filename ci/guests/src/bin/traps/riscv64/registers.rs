//! Control and status registers: those of S-mode keep what is written, those of M-mode, of the hypervisor extension and of
//! nobody are illegal instructions. Privileged architecture 20211203.

use core::arch::asm;

use xenolith_guests::arch::{self, fault_of, fault_of_code, sbi};
use xenolith_guests::report::value;
use xenolith_guests::xen::sched;
use xenolith_guests::{ensure, expect};

use super::{Case, Outcome, illegal, illegal_here};

pub(crate) const CASES: &[Case] = &[
    ("registers.of_the_supervisor", supervisor),
    ("registers.keep_their_values", keep),
    ("registers.satp_takes_known_modes_only", satp),
    ("registers.counters", counters),
    ("registers.read_only_ones", read_only),
    ("registers.of_the_machine", machine),
    ("registers.of_the_hypervisor", hypervisor),
    ("registers.of_a_guest_hypervisor", guests),
    ("registers.of_nobody", nobody),
    ("registers.stimecmp", stimecmp),
];

pub(crate) const SSTATUS: u32 = 0x100;
const STVEC: u32 = 0x105;
const SCOUNTEREN: u32 = 0x106;
const SENVCFG: u32 = 0x10a;
const SSCRATCH: u32 = 0x140;
const SEPC: u32 = 0x141;
const SCAUSE: u32 = 0x142;
const STVAL: u32 = 0x143;
const STIMECMP: u32 = 0x14d;
const SATP: u32 = 0x180;
const SUPERVISOR: [u32; 10] = [
    SSTATUS, 0x104, STVEC, SCOUNTEREN, SSCRATCH, SEPC, SCAUSE, STVAL, 0x144, SATP,
];
const HYPERVISOR: [u32; 14] = [
    0x600, 0x602, 0x603, 0x604, 0x605, 0x606, 0x607, 0x60a, 0x643, 0x644, 0x645, 0x64a, 0x680,
    0xe12,
];
const GUESTS: [u32; 9] = [
    0x200, 0x204, 0x205, 0x240, 0x241, 0x242, 0x243, 0x244, 0x280,
];
const MACHINE: [u32; 30] = [
    0x300, 0x301, 0x302, 0x303, 0x304, 0x305, 0x306, 0x30a, 0x320, 0x323, 0x340, 0x341, 0x342,
    0x343, 0x344, 0x34a, 0x34b, 0x3a0, 0x3b0, 0x3bf, 0x7a0, 0x7a1, 0x7b0, 0xb00, 0xb02, 0xf11,
    0xf12, 0xf13, 0xf14, 0x747,
];
const NOBODY: [u32; 8] = [0x00b, 0x1ff, 0x5c0, 0x6c0, 0x8ff, 0x9c0, 0xac0, 0xcc0];

/// CSRRS a0, csr, x0: a read.
fn read(csr: u32) -> [u32; 1] {
    [csr << 20 | 2 << 12 | 10 << 7 | 0x73]
}

/// CSRRW x0, csr, a0: a write.
fn write(csr: u32) -> [u32; 1] {
    [csr << 20 | 10 << 15 | 1 << 12 | 0x73]
}

/// Both a read and a write are illegal; the value is written to what may exist after all, so it is zero.
fn illegal_both(csrs: &[u32]) -> Outcome {
    for &csr in csrs {
        illegal_code("read of", csr, read(csr))?;
        illegal_code("write of", csr, write(csr))?;
    }
    Ok(())
}

fn illegal_code(what: &str, csr: u32, code: [u32; 1]) -> Outcome {
    illegal(
        format_args!("{what} {csr:#x}"),
        fault_of_code(&code, 0),
        code[0],
    )
}

fn supervisor() -> Outcome {
    for csr in SUPERVISOR {
        let fault = fault_of_code(&read(csr), 0);
        ensure!(fault.is_none(), "read of {csr:#x}: {fault:x?}");
    }
    let fault = fault_of_code(&read(SENVCFG), 0);
    value("registers.senvcfg_faults", i64::from(fault.is_some()));
    Ok(())
}

/// A register that a case may change, here as a function because its number is part of the instruction.
macro_rules! swap {
    ($csr:literal, $value:expr) => {{
        let before: u64;
        // SAFETY: the case puts the value back before anything needs it.
        unsafe { asm!(concat!("csrrw {}, ", $csr, ", {}"), out(reg) before, in(reg) $value as u64, options(nostack)) };
        before
    }};
}

fn keep() -> Outcome {
    arch::irq_off();
    for number in [0u64, 0x1234_5678_9abc_def0, u64::MAX] {
        let before = swap!("sscratch", number);
        sched::yield_now();
        expect!(swap!("sscratch", before), number, "sscratch");
        let before = swap!("sepc", number);
        sched::yield_now();
        // QEMU 7.2 keeps the lowest bit, which always reads as zero.
        expect!(swap!("sepc", before) & !1, number & !1, "sepc");
        let before = swap!("stval", number);
        sched::yield_now();
        expect!(swap!("stval", before), number, "stval");
    }
    for number in [0u64, 1, 7] {
        let before = swap!("scounteren", number);
        sched::yield_now();
        expect!(swap!("scounteren", before), number, "scounteren");
    }
    for number in [2u64, 5, 8, 15] {
        let before = swap!("scause", number);
        sched::yield_now();
        expect!(swap!("scause", before), number, "scause");
    }
    Ok(())
}

/// A mode that the CPU has not leaves the register as it was; the guest would be gone otherwise.
fn satp() -> Outcome {
    let before: u64;
    // SAFETY: a register read.
    unsafe { asm!("csrr {}, satp", out(reg) before, options(nomem, nostack)) };
    expect!(before >> 60, 8, "mode");
    for mode in [1u64, 2, 7, 11, 15] {
        let root = before & ((1 << 44) - 1);
        let was = swap!("satp", mode << 60 | root);
        expect!(was, before, "before mode {mode}");
        let now = swap!("satp", before);
        expect!(now, before, "after mode {mode}");
    }
    Ok(())
}

/// The time runs; the other two may be hidden.
fn counters() -> Outcome {
    for (name, csr) in [
        ("registers.cycle_faults", 0xc00),
        ("registers.time_faults", 0xc01),
        ("registers.instret_faults", 0xc02),
        ("registers.hpmcounter3_faults", 0xc03),
    ] {
        let fault = fault_of_code(&read(csr), 0);
        if let Some(fault) = fault {
            expect!(fault.cause, arch::cause::ILLEGAL, "{name}");
        }
        value(name, i64::from(fault.is_some()));
    }
    let first = arch::now();
    ensure!(xenolith_guests::cpus::wait_for(|| arch::now() > first));
    Ok(())
}

fn read_only() -> Outcome {
    for csr in [0xc00, 0xc01, 0xc02] {
        illegal_code("write of", csr, write(csr))?;
    }
    Ok(())
}

fn machine() -> Outcome {
    illegal_both(&MACHINE)
}

fn hypervisor() -> Outcome {
    if sbi::is_bare() {
        return Ok(());
    }
    illegal_both(&HYPERVISOR)
}

fn guests() -> Outcome {
    if sbi::is_bare() {
        return Ok(());
    }
    illegal_both(&GUESTS)?;
    illegal_both(&[0x24d])
}

fn nobody() -> Outcome {
    illegal_both(&NOBODY)
}

/// It is there exactly if the device tree says so.
fn stimecmp() -> Outcome {
    let fault = fault_of(|| {
        // SAFETY: a register read; a fault is skipped.
        unsafe { asm!("csrr {}, 0x14d", out(reg) _, options(nostack)) }
    });
    value("registers.has_stimecmp", i64::from(arch::has_sstc()));
    if arch::has_sstc() {
        ensure!(fault.is_none(), "{fault:x?}");
        return Ok(());
    }
    illegal_here("stimecmp", fault)?;
    illegal_code("write of", STIMECMP, write(STIMECMP))
}
