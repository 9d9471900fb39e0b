//! What entry and exit of PV guests do beside, on machines that need it: another root for isolated guests ([`super::isolation`]),
//! the return stack filled behind a guest, and VERW before it ([`crate::speculation`]).
//!
//! The plain ways ([`super::entry`], [`crate::cpu::vectors`]) know nothing of it. Where it is needed, jumps to the code here are
//! written over instructions of theirs at the start, which the code here has in their place: who does not need it pays nothing.
//!
//! Of the hypervisor, only `.text.vectors`, `.text.pv_entry`, this section, the interrupt table and the CPU's own window are there until an
//! isolated guest's own root is loaded. What interrupts these instructions (a machine check, an NMI, the fault of an IRET) runs
//! on the hypervisor's root and goes back to the one that was loaded.

use core::{
    arch::global_asm,
    mem::offset_of,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use super::{
    frame::Frame,
    gate::{Gate, Guard},
    isolation::cpu::isolate,
    patch::{self, Site},
};
use crate::{
    cpu::vectors,
    mm::layout::IMAGE_VA,
    speculation::{Plan, apply},
};

const fn at(field: usize) -> usize {
    offset_of!(Gate, head.guard) + field
}

global_asm!(
    r#"
    .section .text.pv_guard, "ax"

    // A place of the plain way, and where it goes on.
    .macro instead_of name
    .pushsection guard_sites, "a"
    .quad   \name, \name\()_guarded
    .popsection
    .balign 16
\name\()_guarded:
    .endm

    // Behind a guest, RSP is the frame: RCX and flags are lost.
    .macro from_guest
    movq    {entry_root} - {frame}(%rsp), %rcx
    testq   %rcx, %rcx
    jz      1f
    movq    %rcx, %cr3
1:  cmpb    $0, {returns} - {frame}(%rsp)
    je      5f
    movl    $16, %ecx                   // room for 32 returns is below the frame
2:  callq   3f
11: pause                               // where a return that is only guessed would go
    lfence
    jmp     11b
3:  callq   4f
12: pause
    lfence
    jmp     12b
4:  decl    %ecx
    jnz     2b
    addq    $256, %rsp
    lfence                              // no return is guessed before the stack is full
5:
    .endm

    // Before a guest, RSP is the frame: RAX, the guest's, stays and may go to the frame; of the others only those that functions
    // keep are as before.
    .macro to_guest
    cmpb    $0, {isolated} - {frame}(%rsp)
    je      3f
    movq    %cr3, %rcx
    cmpq    {root} - {frame}(%rsp), %rcx
    jne     1f                          // another root
    movq    {flushes} - {frame}(%rsp), %rcx
    movq    (%rcx), %rcx
    cmpq    {flushed} - {frame}(%rsp), %rcx
    jne     1f                          // something was to be forgotten
    movq    {copy} - {frame}(%rsp), %rcx
    jmp     2f
1:  movq    %rax, {rax}(%rsp)
    movq    %rsp, %rdi
    movq    {own_rsp} - {frame}(%rsp), %rsp
    callq   {isolate}
    movq    (%rsp), %rsp
    movq    %rax, %rcx
    movq    {rax}(%rsp), %rax
2:  movq    %rcx, %cr3
3:  cmpb    $0, {verw} - {frame}(%rsp)
    je      4f
    verw    {selector} - {frame}(%rsp)  // behind it only the guest's own registers are read
4:
    .endm

    instead_of pv_syscall
    movq    %rcx, {rip}(%rsp)
    from_guest
    jmp     pv_syscall_rest

    instead_of pv_page_fault
    subq    ${error}, %rsp
    movq    %rcx, {rcx}(%rsp)
    cld
    from_guest
    movq    {rcx}(%rsp), %rcx
    jmp     pv_page_fault_rest

    instead_of pv_stopped
    from_guest
    jmp     pv_stopped_full

    instead_of pv_sysret_exit
    to_guest
    movq    {rip}(%rsp), %rcx
    movq    {rdi}(%rsp), %rdi
    jmp     pv_sysret_exit_rest

    instead_of pv_iret_exit
    movq    {rax}(%rsp), %rax
    to_guest
    movq    {rdi}(%rsp), %rdi
    jmp     pv_iret_exit_rest

    instead_of pv_resume
    movq    {rax}(%rsp), %rax
    to_guest
    popq    %r15
    popq    %r14
    popq    %r13
    jmp     pv_resume_rest

    instead_of interrupt_taken          // RSP is a frame, on whatever stack; its registers are stored
    movq    %cr3, %rbx
    xorl    %ebp, %ebp
    testb   $3, {cs}(%rsp)
    jnz     1f                          // from a guest
    leaq    _entry_text_start(%rip), %rax
    cmpq    %rax, {rip}(%rsp)
    jb      2f
    leaq    _entry_text_end(%rip), %rax
    cmpq    %rax, {rip}(%rsp)
    jae     2f
1:  movl    $(hyp_root - {delta}), %eax
    movq    %rax, %cr3
    movl    $1, %ebp
2:  movq    %rsp, %rdi
    callq   {taken}
    testl   %ebp, %ebp
    jz      interrupt_taken_rest
    movq    %rbx, %cr3
    jmp     interrupt_taken_rest
    .text
    "#,
    frame = const offset_of!(Gate, frame),
    own_rsp = const offset_of!(Gate, head.own_rsp),
    isolated = const at(offset_of!(Guard, isolated)),
    verw = const at(offset_of!(Guard, verw)),
    returns = const at(offset_of!(Guard, returns)),
    selector = const at(offset_of!(Guard, selector)),
    root = const at(offset_of!(Guard, root)),
    entry_root = const at(offset_of!(Guard, entry_root)),
    copy = const at(offset_of!(Guard, copy)),
    flushes = const at(offset_of!(Guard, flushes)),
    flushed = const at(offset_of!(Guard, flushed)),
    rax = const offset_of!(Frame, rax),
    rcx = const offset_of!(Frame, rcx),
    rdi = const offset_of!(Frame, rdi),
    error = const offset_of!(Frame, error),
    rip = const offset_of!(Frame, rip),
    cs = const offset_of!(Frame, cs),
    delta = const IMAGE_VA - crate::boot::head::LOAD,
    isolate = sym isolate,
    taken = sym vectors::taken,
    options(att_syntax),
);

unsafe extern "C" {
    static _guard_sites_start: [Site; 0];
    static _guard_sites_end: [Site; 0];
}

static ON: AtomicBool = AtomicBool::new(false);

/// Whether the code here is in use.
#[inline(always)]
pub fn is_on() -> bool {
    ON.load(Relaxed)
}

/// Puts the code here into the ways of all guests, if any of it is needed. On the first CPU, before there is another.
pub fn start(isolated: bool, plan: &Plan) {
    if isolated || plan.verw_pv || plan.returns_pv {
        // SAFETY: the places are those of this file, where nobody else is; the other ways do what they did, and more.
        unsafe { patch::take_over(&raw const _guard_sites_start, &raw const _guard_sites_end) };
        ON.store(true, Relaxed);
    }
}

/// What is done of it for PV guests, in the CPU's gate.
pub fn fill(guard: &mut Guard) {
    let plan = apply::plan();
    guard.verw = plan.verw_pv;
    guard.returns = plan.returns_pv;
}
