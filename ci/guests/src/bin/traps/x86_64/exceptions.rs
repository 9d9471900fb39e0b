//! Exceptions come with the right vector, error code and address, also around what the hypervisor catches.

use core::arch::asm;

use xenolith_guests::arch::{self, exception, fault_of, regs};
use xenolith_guests::buffer::Page;
use xenolith_guests::report::value;
use xenolith_guests::{ensure, expect};

use super::{Case, Outcome, faulted, protection, undefined};

pub(crate) const CASES: &[Case] = &[
    ("exception.divide", divide),
    ("exception.breakpoint_and_single_step", breakpoint),
    ("exception.undefined", undefined_instruction),
    ("exception.page_faults", page_faults),
    ("exception.protection", general_protection),
    ("exception.not_present_and_stack", segments),
    ("exception.names_its_instruction", names_instruction),
    ("exception.single_step_over_a_caught_instruction", step_over),
    ("exception.nmi_while_interrupts_are_off", nmi),
];

fn divide() -> Outcome {
    // SAFETY: a division by zero, expected.
    let fault = fault_of(|| unsafe {
        asm!("div {0:e}", in(reg) 0u32, inout("eax") 1u32 => _, inout("edx") 0u32 => _)
    });
    faulted("div", fault, exception::DIVIDE, 0)
}

fn breakpoint() -> Outcome {
    // SAFETY: INT3, expected.
    let fault = fault_of(|| unsafe { asm!("int3") });
    faulted("int3", fault, exception::BREAKPOINT, 0)?;
    // SAFETY: one step; the landing has the flag off again.
    let fault =
        fault_of(|| unsafe { asm!("pushfq", "or qword ptr [rsp], 0x100", "popfq", "nop", "nop") });
    faulted("single step", fault, exception::DEBUG, 0)
}

fn undefined_instruction() -> Outcome {
    // SAFETY: (all) undefined on purpose.
    undefined("ud2", fault_of(|| unsafe { asm!("ud2") }))?;
    undefined(
        "push es in long mode",
        // SAFETY: as above.
        fault_of(|| unsafe { asm!(".byte 0x06") }),
    )?;
    // SAFETY: as above.
    undefined("lock nop", fault_of(|| unsafe { asm!(".byte 0xf0, 0x90") }))
}

fn page_faults() -> Outcome {
    let page = Page::take();
    let at = arch::UNMAPPED + 0x123;
    let fault = fault_of(|| {
        arch::read8(at);
    });
    faulted("read of nothing mapped", fault, exception::PAGE, 0)?;
    expect!(fault.map(|fault| fault.address), Some(at), "CR2");
    faulted(
        "write of nothing mapped",
        fault_of(|| arch::write8(at, 1)),
        exception::PAGE,
        2,
    )?;
    let read_only = arch::map_page(0, page.address(), arch::Access::ReadOnly);
    faulted(
        "write of a read-only page",
        fault_of(|| arch::write8(read_only, 1)),
        exception::PAGE,
        3,
    )?;
    // SAFETY: a call to a page that may not run.
    let fault = fault_of(|| unsafe { asm!("call {}", in(reg) read_only) });
    faulted(
        "fetch of a page that may not run",
        fault,
        exception::PAGE,
        0x11,
    )?;
    // SAFETY: a call to nothing mapped.
    let fault = fault_of(|| unsafe { asm!("call {}", in(reg) arch::UNMAPPED) });
    faulted("fetch of nothing mapped", fault, exception::PAGE, 0x10)?;
    let reserved = arch::paging::set_entry(0, page.address() | 3 | 1 << 51);
    let fault = fault_of(|| {
        arch::read8(reserved);
    });
    value(
        "exception.reserved_bit_error",
        fault.map_or(-1, |fault| fault.error as i64),
    );
    let entry = arch::map_page(0, page.address(), arch::Access::ReadWrite);
    arch::read8(entry);
    expect!(arch::paging::entry(0) & 0x60, 0x20, "accessed");
    arch::write8(entry, 1);
    expect!(arch::paging::entry(0) & 0x60, 0x60, "dirty");
    arch::unmap_page(0);
    Ok(())
}

fn general_protection() -> Outcome {
    let fault = fault_of(|| {
        arch::read8(arch::NON_CANONICAL);
    });
    protection("a non-canonical address", fault)?;
    // SAFETY: a selector beyond the table.
    let fault = fault_of(|| unsafe { asm!("mov ds, {0:e}", in(reg) 0x1000u32) });
    faulted(
        "a selector beyond the table",
        fault,
        exception::PROTECTION,
        0x1000,
    )?;
    // SAFETY: a gate that is a hole in no table of ours, but beyond the limit of a shorter one is checked the same.
    let fault = fault_of(|| unsafe { asm!("ltr {0:x}", in(reg) 0x10u32) });
    faulted(
        "a task register of data",
        fault,
        exception::PROTECTION,
        0x10,
    )
}

fn segments() -> Outcome {
    // SAFETY: a stack at no address.
    let fault = fault_of(|| unsafe {
        asm!("mov {s}, rsp", "mov rsp, {n}", "push 0", "mov rsp, {s}", s = out(reg) _, n = in(reg) arch::NON_CANONICAL)
    });
    // The CPU gives a stack fault, and its entry pushes on the stack that is no address: a double fault, on its own.
    value(
        "exception.bad_stack_vector",
        fault.map_or(-1, |fault| fault.vector as i64),
    );
    ensure!(fault.is_some());
    Ok(())
}

fn names_instruction() -> Outcome {
    let fault = fault_of(|| {
        regs::rdmsr(0xdead_0000);
    });
    let rip = fault.map_or(0, |fault| fault.rip);
    ensure!(arch::image().contains(&rip), "{rip:#x}");
    expect!(arch::read16(rip), 0x320f, "the instruction there");
    Ok(())
}

/// A step over an instruction that the hypervisor does for the guest ends behind it, too.
fn step_over() -> Outcome {
    let after: u64;
    let fault = {
        let mut address = 0u64;
        // SAFETY: one step over CPUID; the address behind it comes out.
        let fault = fault_of(|| unsafe {
            asm!("lea {t}, [rip + 2f]", "mov [{a}], {t}", "push rbx", "pushfq", "or qword ptr [rsp], 0x100", "xor eax, eax",
                 "popfq", "cpuid", "2:", "nop", "pop rbx", t = out(reg) _, a = in(reg) &raw mut address,
                 out("eax") _, out("ecx") _, out("edx") _)
        });
        after = address;
        fault
    };
    faulted("step", fault, exception::DEBUG, 0)?;
    let rip = fault.map_or(0, |fault| fault.rip);
    value(
        "exception.step_over_cpuid_bytes_behind",
        rip.wrapping_sub(after) as i64,
    );
    ensure!(rip == after || rip == after + 1, "{rip:#x}, {after:#x}");
    Ok(())
}

fn nmi() -> Outcome {
    use core::sync::atomic::Ordering;
    arch::irq_off();
    let before = arch::this_cpu().nmis.load(Ordering::SeqCst);
    arch::apic::command(arch::apic::id(), 4 << 8 | 1 << 14);
    ensure!(
        xenolith_guests::cpus::wait_for(
            || arch::this_cpu().nmis.load(Ordering::SeqCst) == before + 1
        ),
        "no NMI"
    );
    Ok(())
}
