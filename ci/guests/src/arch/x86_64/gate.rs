//! The ways to call the hypervisor: the CPU's own instruction, or the page that the hypervisor fills.
//! The instruction is chosen by the CPU's vendor; the page is at the MSR that Xen's CPUID leaf 2 names.
//! The word `gate=page` on the command line has all calls go through the page.

use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use super::regs::{cpuid, wrmsr};
use crate::bootargs;

const PAGE_BYTES: usize = 4096;

#[repr(C, align(4096))]
struct Bytes([u8; PAGE_BYTES]);

#[unsafe(no_mangle)]
static mut GUEST_HYPERCALL_PAGE: Bytes = Bytes([0; PAGE_BYTES]);

unsafe extern "C" {
    fn guest_gate_vmmcall();
    fn guest_gate_vmcall();
    fn guest_gate_page();
    fn guest_call_32(number: u32, first: u32, second: u32, amd: u32) -> u32;
}

global_asm!(
    r#"
    .global guest_gate_vmmcall
    .global guest_gate_vmcall
    .global guest_gate_page
guest_gate_vmmcall:
    vmmcall
    ret
guest_gate_vmcall:
    vmcall
    ret
    // 128 entries of 32 bytes; that of `iret` (23) is none for a guest of this kind.
guest_gate_page:
    cmp     rax, 128
    jae     2f
    cmp     rax, 23
    je      2f
    mov     r11, rax
    shl     r11, 5
    lea     r11, [r11 + GUEST_HYPERCALL_PAGE]
    jmp     r11
2:  jmp     [rip + {instruction}]
"#,
    instruction = sym INSTRUCTION,
);

global_asm!(
    r#"
    .global guest_call_32
    // From 32-bit code. edi: number, esi and edx: arguments, ecx: whether the CPU is AMD's.
guest_call_32:
    pushq   %rbx
    pushq   %rbp
    movl    %edi, %eax
    movl    %esi, %ebx
    movl    %ecx, %ebp
    movl    %edx, %ecx
    xorl    %edx, %edx
    xorl    %esi, %esi
    xorl    %edi, %edi
    pushq   ${code}
    pushq   $1f
    lretq
    .code32
1:  testl   %ebp, %ebp
    jz      2f
    vmmcall
    jmp     3f
2:  vmcall
3:  ljmpl   $0x08, $4f
    .code64
4:  movl    %esp, %esp
    popq    %rbp
    popq    %rbx
    ret
"#,
    code = const super::cpu::selector::CODE_32,
    options(att_syntax),
);

/// The gate that all calls go through.
static GATE: AtomicUsize = AtomicUsize::new(0);
/// The gate of the CPU's own instruction.
static INSTRUCTION: AtomicUsize = AtomicUsize::new(0);
static LEAVES: AtomicU32 = AtomicU32::new(0);

/// Number of the hypervisor's first CPUID leaf; 0 if it does not say that it is Xen.
pub fn leaves() -> u32 {
    LEAVES.load(Ordering::Relaxed)
}

/// Whether the CPU's vendor is AMD (or one of its kin), whose instruction is VMMCALL.
pub fn is_amd() -> bool {
    matches!(cpuid(0, 0).ebx, 0x6874_7541 | 0x6f67_7948)
}

/// Finds the hypervisor's leaves and has it fill the hypercall page.
pub(super) fn init() {
    let instruction = if is_amd() {
        guest_gate_vmmcall as *const ()
    } else {
        guest_gate_vmcall as *const ()
    };
    INSTRUCTION.store(instruction as usize, Ordering::Relaxed);
    GATE.store(instruction as usize, Ordering::Relaxed);
    for base in (0x4000_0000..0x4001_0000).step_by(0x100) {
        let leaf = cpuid(base, 0);
        // "XenVMMXenVMM"
        if (leaf.ebx, leaf.ecx, leaf.edx) == (0x566e_6558, 0x6558_4d4d, 0x4d4d_566e) {
            LEAVES.store(base, Ordering::Relaxed);
            wrmsr(cpuid(base + 2, 0).ebx, hypercall_page());
            break;
        }
    }
    if bootargs::word("gate") == Some("page") {
        GATE.store(page_gate(), Ordering::Relaxed);
    }
}

/// Address of the hypercall page.
pub fn hypercall_page() -> u64 {
    (&raw const GUEST_HYPERCALL_PAGE) as u64
}

fn page_gate() -> usize {
    guest_gate_page as *const () as usize
}

fn through(gate: usize, number: u64, args: [u64; 5]) -> i64 {
    let result: u64;
    // SAFETY: the convention of arch-x86/xen-x86_64.h; the gate changes nothing else.
    unsafe {
        asm!("call {gate}", gate = in(reg) gate, inout("rax") number => result,
             inout("rdi") args[0] => _, inout("rsi") args[1] => _, inout("rdx") args[2] => _,
             inout("r10") args[3] => _, inout("r8") args[4] => _, out("rcx") _, out("r11") _)
    };
    result as i64
}

/// Calls the hypervisor; the result is its errno or count.
///
/// Declared safe for the sake of readable cases: what a hypercall may write is what its arguments
/// name, and a case names only buffers of its own or addresses that nothing lives at.
pub fn hypercall(number: u64, args: [u64; 5]) -> i64 {
    through(GATE.load(Ordering::Relaxed), number, args)
}

/// The same by the hypercall page.
pub fn hypercall_by_page(number: u64, args: [u64; 5]) -> i64 {
    through(page_gate(), number, args)
}

/// The same from 32-bit code, with two arguments as that passes them. Interrupts must be off.
pub fn hypercall_from_32_bit_code(number: u32, first: u32, second: u32) -> i32 {
    // SAFETY: code, stack and descriptor tables are below 4 GiB; what the call may write is what its arguments name.
    unsafe { guest_call_32(number, first, second, u32::from(is_amd())) as i32 }
}
