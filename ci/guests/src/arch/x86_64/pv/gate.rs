//! The ways to call the hypervisor: SYSCALL, or the page that the domain builder filled. The word `gate=page` on the
//! command line has all calls go through the page.

use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use crate::bootargs;

unsafe extern "C" {
    fn guest_gate_syscall();
    fn guest_gate_page();
}

global_asm!(
    r#"
    .global guest_gate_syscall
    .global guest_gate_page
guest_gate_syscall:
    syscall
    ret
    // 128 entries of 32 bytes; that of `iret` (23) does not come back.
guest_gate_page:
    cmp     rax, 128
    jae     guest_gate_syscall
    cmp     rax, 23
    je      guest_gate_syscall
    mov     r11, rax
    shl     r11, 5
    lea     r11, [r11 + GUEST_HYPERCALL_PAGE]
    jmp     r11
"#
);

static GATE: AtomicUsize = AtomicUsize::new(0);
static LEAVES: AtomicU32 = AtomicU32::new(0);

/// Number of the hypervisor's first CPUID leaf; 0 if it does not say that it is Xen.
pub fn leaves() -> u32 {
    LEAVES.load(Ordering::Relaxed)
}

/// Takes SYSCALL, with which everything begins.
pub(super) fn init() {
    GATE.store(guest_gate_syscall as *const () as usize, Ordering::Relaxed);
}

/// Obeys the command line, and finds the hypervisor's leaves.
pub(super) fn choose() {
    if bootargs::word("gate") == Some("page") {
        GATE.store(page_gate(), Ordering::Relaxed);
    }
    let is_xen = |base: &u32| {
        let leaf = super::forced_cpuid(*base, 0);
        // "XenVMMXenVMM"
        (leaf.ebx, leaf.ecx, leaf.edx) == (0x566e_6558, 0x6558_4d4d, 0x4d4d_566e)
    };
    let found = (0x4000_0000..0x4001_0000).step_by(0x100).find(is_xen);
    LEAVES.store(found.unwrap_or(0), Ordering::Relaxed);
}

/// Address of the hypercall page.
pub fn hypercall_page() -> u64 {
    unsafe extern "C" {
        static GUEST_HYPERCALL_PAGE: u8;
    }
    (&raw const GUEST_HYPERCALL_PAGE) as u64
}

fn page_gate() -> usize {
    guest_gate_page as *const () as usize
}

fn through(gate: usize, number: u64, args: [u64; 6]) -> i64 {
    let result: u64;
    // SAFETY: the convention of arch-x86/xen-x86_64.h; the gate changes nothing else.
    unsafe {
        asm!("call {gate}", gate = in(reg) gate, inout("rax") number => result,
             inout("rdi") args[0] => _, inout("rsi") args[1] => _, inout("rdx") args[2] => _,
             inout("r10") args[3] => _, inout("r8") args[4] => _, inout("r9") args[5] => _, out("rcx") _, out("r11") _)
    };
    result as i64
}

/// Calls the hypervisor; the result is its errno or count.
///
/// Declared safe for the sake of readable cases: what a hypercall may write is what its arguments
/// name, and a case names only buffers of its own or addresses that nothing lives at.
pub fn hypercall(number: u64, args: [u64; 5]) -> i64 {
    let [a, b, c, d, e] = args;
    through(GATE.load(Ordering::Relaxed), number, [a, b, c, d, e, 0])
}

/// The same by the hypercall page.
pub fn hypercall_by_page(number: u64, args: [u64; 5]) -> i64 {
    let [a, b, c, d, e] = args;
    through(page_gate(), number, [a, b, c, d, e, 0])
}
