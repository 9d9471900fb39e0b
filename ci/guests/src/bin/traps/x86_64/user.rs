//! Code in user mode: what it may not do, and that a hypercall from there is refused.

use core::arch::{asm, global_asm};

use xenolith_guests::arch::{self, Fault, exception, fault_of, selector};
use xenolith_guests::buffer::Page;
use xenolith_guests::report::value;
use xenolith_guests::xen::errno::EPERM;
use xenolith_guests::xen::nr;
use xenolith_guests::{ensure, expect};

use super::{Case, Outcome, faulted, protection, undefined};

pub(crate) const CASES: &[Case] = &[
    ("user.hypercall_is_refused", hypercall),
    ("user.privileged_instructions", privileged),
    ("user.ports", ports),
    ("user.kernel_pages", kernel_pages),
    ("user.int_with_a_low_gate", low_gate),
    ("user.cpuid_works", cpuid),
];

const USER: u64 = 4;

/// Runs `code` in user mode with rdi = `argument` until it faults; it comes back by a breakpoint, whose fault
/// this is when all went well. Gives the fault and what was in the word at the end of the user's stack page.
fn in_user_mode(code: &[u8], argument: u64) -> (Option<Fault>, u64) {
    let (text, stack) = (Page::take(), Page::take());
    for (index, byte) in (0u64..).zip(code) {
        text.write::<u8>(index, *byte);
    }
    open_upper_tables();
    let entry = arch::paging::set_entry(0, text.address() | USER | 3);
    let top = arch::paging::set_entry(1, stack.address() | USER | 3) + 4096 - 16;
    // SAFETY: leaves for user code that comes back by a fault, which restores this function's registers.
    let fault = fault_of(|| unsafe {
        asm!("push {ss}", "push {top}", "push 2", "push {cs}", "push {entry}", "iretq",
             ss = in(reg) u64::from(selector::USER_DATA), top = in(reg) top,
             cs = in(reg) u64::from(selector::USER_CODE), entry = in(reg) entry, in("rdi") argument, options(noreturn))
    });
    arch::unmap_page(0);
    arch::unmap_page(1);
    (fault, stack.read(4096 - 24))
}

/// User pages need the user bit at every level above them.
fn open_upper_tables() {
    let mut table = arch::paging::root();
    for shift in [39, 30, 21] {
        let at = table + (arch::WINDOW >> shift & 0x1ff) * 8;
        arch::write64(at, arch::read64(at) | USER);
        table = arch::read64(at) & 0xf_ffff_ffff_f000;
    }
}

unsafe extern "C" {
    static user_call_start: u8;
    static user_call_end: u8;
}

global_asm!(
    r#"
    // rdi: whether the CPU is AMD's. The result goes to the stack.
user_call_start:
    mov     rcx, rdi
    mov     eax, 17
    xor     edi, edi
    xor     esi, esi
    test    ecx, ecx
    jz      2f
    vmmcall
    jmp     3f
2:  vmcall
3:  push    rax
    int3
user_call_end:
"#
);

fn code_between(start: *const u8, end: *const u8) -> &'static [u8] {
    // SAFETY: bytes of the image between two labels.
    unsafe { core::slice::from_raw_parts(start, end as usize - start as usize) }
}

fn back(what: &str, fault: Option<Fault>) -> Outcome {
    faulted(what, fault, exception::BREAKPOINT, 0)
}

fn hypercall() -> Outcome {
    let code = code_between(&raw const user_call_start, &raw const user_call_end);
    let (fault, result) = in_user_mode(code, u64::from(arch::is_amd()));
    back("hypercall", fault)?;
    value("user.hypercall_result", result as i64);
    expect!(result as i64, EPERM);
    ensure!(arch::hypercall(nr::XEN_VERSION, [0; 5]) >> 16 == 4);
    Ok(())
}

fn privileged() -> Outcome {
    for (name, code) in [
        ("hlt", &[0xf4][..]),
        ("cli", &[0xfa]),
        ("mov cr0", &[0x0f, 0x20, 0xc0]),
        ("mov cr3", &[0x0f, 0x22, 0xd8]),
        ("rdmsr", &[0x0f, 0x32]),
        ("wrmsr", &[0x0f, 0x30]),
        ("invlpg", &[0x0f, 0x01, 0x3f]),
        ("wbinvd", &[0x0f, 0x09]),
        ("lgdt", &[0x0f, 0x01, 0x17]),
        ("mov dr0", &[0x0f, 0x21, 0xc0]),
        ("clts", &[0x0f, 0x06]),
    ] {
        protection(name, in_user_mode(code, arch::WINDOW).0)?;
    }
    undefined(
        "xsetbv without OSXSAVE",
        in_user_mode(&[0x0f, 0x01, 0xd1], 0).0,
    )?;
    // The CPU looks at the privilege before it lets the hypervisor see the instruction.
    let (fault, _) = in_user_mode(&[0x0f, 0x01, 0xd8], 0);
    value(
        "user.vmrun_vector",
        fault.map_or(-1, |fault| fault.vector as i64),
    );
    ensure!(
        fault.is_some_and(|fault| matches!(
            fault.vector,
            exception::UNDEFINED | exception::PROTECTION
        ))
    );
    Ok(())
}

fn ports() -> Outcome {
    protection("in", in_user_mode(&[0x66, 0xba, 0xf0, 0x05, 0xec], 0).0)?;
    protection("out", in_user_mode(&[0x66, 0xba, 0xf0, 0x05, 0xee], 0).0)?;
    protection(
        "insb",
        in_user_mode(&[0x66, 0xba, 0xf0, 0x05, 0x6c], arch::WINDOW).0,
    )
}

fn kernel_pages() -> Outcome {
    let read = &[0x48, 0x8b, 0x07];
    let (fault, _) = in_user_mode(read, arch::image().start);
    faulted("read", fault, exception::PAGE, 5)?;
    expect!(fault.map(|fault| fault.address), Some(arch::image().start));
    let write = &[0x48, 0x89, 0x07];
    let (fault, _) = in_user_mode(write, arch::device_address());
    faulted("write of a device", fault, exception::PAGE, 7)
}

/// A gate that user code may not use gives its own number in the error code.
fn low_gate() -> Outcome {
    let (fault, _) = in_user_mode(&[0xcd, 0x50], 0);
    ensure!(
        fault.is_some_and(|fault| fault.vector == exception::PROTECTION),
        "{fault:x?}"
    );
    // 8n + 2; QEMU 7.2 gives 16n + 2.
    value(
        "user.int_50_error",
        fault.map_or(-1, |fault| fault.error as i64),
    );
    Ok(())
}

fn cpuid() -> Outcome {
    // xor eax, eax; cpuid; push rbx; int3
    let (fault, result) = in_user_mode(&[0x31, 0xc0, 0x0f, 0xa2, 0x53, 0xcc], 0);
    back("cpuid", fault)?;
    expect!(result as u32, arch::regs::cpuid(0, 0).ebx);
    Ok(())
}
