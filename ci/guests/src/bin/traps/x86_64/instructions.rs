//! Instructions that only a hypervisor has a use for, or that it catches.

use core::arch::asm;

use xenolith_guests::arch::{self, fault_of, regs};
use xenolith_guests::report::value;
use xenolith_guests::xen::nr;
use xenolith_guests::{ensure, expect};

use super::{Case, Outcome, undefined};

pub(crate) const CASES: &[Case] = &[
    ("instruction.of_svm_are_undefined", svm),
    ("instruction.of_vmx_are_undefined", vmx),
    ("instruction.other_vendors_call", other_call),
    ("instruction.call_with_prefixes", prefixes),
    ("instruction.monitor_and_mwait", monitor),
    ("instruction.cache_control", cache),
    ("instruction.counters", counters),
    ("instruction.invlpg", invlpg),
    ("instruction.descriptor_tables", tables),
    ("instruction.halt_ends_with_an_interrupt", halt),
    (
        "instruction.floating_point_survives_a_switch",
        floating_point,
    ),
];

macro_rules! run {
    ($($code:literal),*) => {
        // SAFETY: an instruction that the case chose to be harmless; a fault leaves the closure.
        fault_of(|| unsafe { asm!($($code),*, inout("rax") 0u64 => _, inout("rcx") 0u64 => _, inout("rdx") 0u64 => _) })
    };
}

fn svm() -> Outcome {
    undefined("vmrun", run!("vmrun rax"))?;
    undefined("vmload", run!("vmload rax"))?;
    undefined("vmsave", run!("vmsave rax"))?;
    undefined("stgi", run!("stgi"))?;
    undefined("clgi", run!("clgi"))?;
    undefined("skinit", run!("skinit eax"))?;
    value(
        "instruction.invlpga_fault",
        run!("invlpga").map_or(-1, |fault| fault.vector as i64),
    );
    Ok(())
}

/// QEMU lacks them altogether, which is the same to the guest.
fn vmx() -> Outcome {
    undefined("vmxoff", run!(".byte 0x0f, 0x01, 0xc4"))?;
    undefined("vmlaunch", run!(".byte 0x0f, 0x01, 0xc2"))?;
    undefined("vmresume", run!(".byte 0x0f, 0x01, 0xc3"))?;
    undefined("vmread", run!(".byte 0x0f, 0x78, 0xc0"))?;
    undefined("vmwrite", run!(".byte 0x0f, 0x79, 0xc0"))?;
    let fault = run!(
        "sub rsp, 16",
        ".byte 0xf3, 0x0f, 0xc7, 0x34, 0x24",
        "add rsp, 16"
    );
    undefined("vmxon", fault)
}

/// VMCALL on AMD, VMMCALL on Intel: undefined, or served all the same.
fn other_call() -> Outcome {
    let mut answer = nr::XEN_VERSION;
    let fault = if arch::is_amd() {
        // SAFETY: xen_version 0.
        fault_of(|| unsafe {
            asm!("vmcall", inout("rax") answer, inout("rdi") 0u64 => _, inout("rsi") 0u64 => _)
        })
    } else {
        // SAFETY: as above.
        fault_of(|| unsafe {
            asm!("vmmcall", inout("rax") answer, inout("rdi") 0u64 => _, inout("rsi") 0u64 => _)
        })
    };
    value(
        "instruction.other_call_fault",
        fault.map_or(-1, |fault| fault.vector as i64),
    );
    ensure!(fault.is_some() || answer >> 16 == 4, "{answer:#x}");
    Ok(())
}

/// Prefixes that mean nothing make the instruction longer, and it is skipped whole.
fn prefixes() -> Outcome {
    let plain = arch::hypercall(nr::XEN_VERSION, [0; 5]) as u64;
    macro_rules! with {
        ($prefix:literal) => {{
            let mut rax = nr::XEN_VERSION;
            // SAFETY: xen_version 0 by the CPU's instruction with a prefix before it.
            let fault = fault_of(|| unsafe {
                asm!("test {amd}, {amd}", "jz 2f", concat!(".byte ", $prefix), "vmmcall", "jmp 3f",
                     "2:", concat!(".byte ", $prefix), "vmcall", "3:", amd = in(reg) u64::from(arch::is_amd()),
                     inout("rax") rax, inout("rdi") 0u64 => _, inout("rsi") 0u64 => _)
            });
            value(concat!("instruction.call_with_", $prefix, ".fault"), fault.map_or(-1, |fault| fault.vector as i64));
            ensure!(fault.is_some() || rax == plain, "{}: {:#x}", $prefix, rax);
        }};
    }
    with!("0x48");
    with!("0x2e");
    with!("0x3e");
    with!("0x65");
    Ok(())
}

fn monitor() -> Outcome {
    value(
        "instruction.monitor_fault",
        run!("lea rax, [rsp]", "monitor").map_or(-1, |fault| fault.vector as i64),
    );
    value(
        "instruction.mwait_fault",
        run!("mwait").map_or(-1, |fault| fault.vector as i64),
    );
    Ok(())
}

fn cache() -> Outcome {
    expect!(run!("wbinvd"), None, "wbinvd");
    value(
        "instruction.invd_fault",
        run!("wbinvd", "invd").map_or(-1, |fault| fault.vector as i64),
    );
    expect!(run!("clflush [rsp]"), None, "clflush");
    Ok(())
}

fn counters() -> Outcome {
    value(
        "instruction.rdtscp_fault",
        run!("rdtscp").map_or(-1, |fault| fault.vector as i64),
    );
    value(
        "instruction.rdpmc_fault",
        run!("rdpmc").map_or(-1, |fault| fault.vector as i64),
    );
    let cr4 = regs::cr4();
    regs::set_cr4(cr4 | 4);
    let fault = run!("rdtsc");
    regs::set_cr4(cr4);
    expect!(fault, None, "TSD is for user code");
    Ok(())
}

fn invlpg() -> Outcome {
    for address in [
        0,
        arch::WINDOW,
        arch::UNMAPPED,
        arch::UPPER_HALF,
        arch::NON_CANONICAL,
    ] {
        // SAFETY: drops at most one translation.
        let fault = fault_of(|| unsafe { asm!("invlpg [{}]", in(reg) address) });
        ensure!(fault.is_none(), "{address:#x}: {fault:x?}");
    }
    Ok(())
}

/// The tables that the runtime loaded are what the CPU says.
fn tables() -> Outcome {
    let mut pointer = [0u8; 10];
    // SAFETY: stores ten bytes.
    unsafe { asm!("sgdt [{}]", in(reg) pointer.as_mut_ptr()) };
    expect!(
        u16::from_le_bytes([pointer[0], pointer[1]]),
        63,
        "limit of the GDT"
    );
    // SAFETY: stores ten bytes.
    unsafe { asm!("sidt [{}]", in(reg) pointer.as_mut_ptr()) };
    expect!(
        u16::from_le_bytes([pointer[0], pointer[1]]),
        4095,
        "limit of the IDT"
    );
    let (task, local): (u64, u64);
    // SAFETY: reads two selectors.
    unsafe { asm!("str {0:x}", "sldt {1:x}", out(reg) task, out(reg) local) };
    expect!((task as u16, local as u16), (0x30, 0));
    Ok(())
}

fn halt() -> Outcome {
    arch::irq_off();
    arch::on_timer(|_| arch::timer_off());
    for _ in 0..5 {
        let deadline = arch::now() + arch::ticks_per_second() / 1000;
        arch::timer_at(deadline);
        arch::wait_and_take();
        ensure!(arch::now() >= deadline, "woken too early");
    }
    Ok(())
}

fn floating_point() -> Outcome {
    let (first, last): (u64, u64);
    let cr4 = regs::cr4();
    regs::set_cr4(cr4 | 1 << 9);
    // SAFETY: this guest's code never uses SSE registers itself, so the case has them for its own.
    unsafe {
        asm!("movq xmm0, {a}", "movq xmm15, {b}", "fninit", "fld1", a = in(reg) 0x1111_2222_3333u64, b = in(reg) u64::MAX)
    };
    for _ in 0..10 {
        xenolith_guests::xen::sched::yield_now();
    }
    let mut one = 0f64.to_bits();
    // SAFETY: as above; stores eight bytes.
    unsafe {
        asm!("movq {a}, xmm0", "movq {b}, xmm15", "fstp qword ptr [{m}]", a = out(reg) first, b = out(reg) last,
             m = in(reg) &raw mut one)
    };
    let cr0 = regs::cr0();
    regs::set_cr0(cr0 | 8);
    // SAFETY: an SSE instruction while TS is set.
    let fault = fault_of(|| unsafe { asm!("movq {}, xmm0", out(reg) _) });
    regs::set_cr0(cr0);
    regs::set_cr4(cr4);
    expect!(
        (first, last, one),
        (0x1111_2222_3333, u64::MAX, 1f64.to_bits())
    );
    super::faulted("with TS", fault, arch::exception::NO_DEVICE, 0)
}
