//! How a landing keeps this machine's registers, and the way out of code that faults.

use core::arch::global_asm;
use core::sync::atomic::Ordering;

use super::cpu::this_cpu;
use super::trap::Fault;
use crate::landing::Landing;

global_asm!(
    r#"
    .global guest_attempt
    .global guest_escape
    // Calls rsi(rdx) and returns 1; returns 0 instead when guest_escape is called meanwhile. rdi: the landing,
    // for rbx, rbp, r12 to r15 and rsp.
guest_attempt:
    mov     [rdi], rbx
    mov     [rdi + 8], rbp
    mov     [rdi + 16], r12
    mov     [rdi + 24], r13
    mov     [rdi + 32], r14
    mov     [rdi + 40], r15
    mov     [rdi + 48], rsp
    sub     rsp, 8
    mov     rdi, rdx
    call    rsi
    add     rsp, 8
    mov     eax, 1
    ret
guest_escape:
    mov     rbx, [rdi]
    mov     rbp, [rdi + 8]
    mov     r12, [rdi + 16]
    mov     r13, [rdi + 24]
    mov     r14, [rdi + 32]
    mov     r15, [rdi + 40]
    mov     rsp, [rdi + 48]
    cld
    xor     eax, eax
    ret
"#
);

static FAULT_LANDINGS: [Landing; super::MAX_CPUS] = [const { Landing::new() }; super::MAX_CPUS];

/// Runs `f` and leaves it at the first instruction that faults; says how it faulted, if it did. Not nested.
pub fn fault_of(f: impl FnOnce()) -> Option<Fault> {
    let own = this_cpu();
    let mut once = Some(f);
    let mut call = || {
        if let Some(f) = once.take() {
            f()
        }
    };
    let landing = &FAULT_LANDINGS[super::cpu_index()];
    own.faulted.store(0, Ordering::SeqCst);
    own.expecting.store(1, Ordering::SeqCst);
    landing.call(&mut call);
    own.expecting.store(0, Ordering::SeqCst);
    (own.faulted.load(Ordering::SeqCst) != 0).then(|| Fault {
        vector: own.vector.load(Ordering::Relaxed),
        error: own.error.load(Ordering::Relaxed),
        address: own.address.load(Ordering::Relaxed),
        rip: own.rip.load(Ordering::Relaxed),
    })
}

/// Argument and address of the code that leaves this CPU's `fault_of`.
pub(super) fn after_a_fault() -> (u64, u64) {
    FAULT_LANDINGS[super::cpu_index()].exit()
}
