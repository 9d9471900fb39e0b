//! The world switch (AMD APM, volume 2, 15.5, 15.6 and 15.17).
//!
//! Between CLGI and STGI nothing interrupts. The guest runs with the host's interrupt flag set, so a physical interrupt
//! ends it; at the exit the flag is cleared before STGI, so that the interrupt is taken where the run loop opens for it.
//! VMLOAD and VMSAVE switch what VMRUN leaves alone: FS, GS, TR, LDTR and the system-call registers. The hypervisor needs
//! its own TR and GS for its fault reports, so they are switched at each entry.

use core::{arch::global_asm, mem::offset_of};

use xenolith_hal::HostPhys;

use crate::{
    guest::regs::GuestRegs,
    speculation::apply::{self, careful_entry, careful_exit},
};

global_asm!(
    r#"
    .section .text.svm_enter, "ax"
    // rdi: registers, rsi: physical address of the guest's block, rdx: of the host's.
    .macro  svm_world_switch careful
    pushq   %rbx
    pushq   %rbp
    pushq   %r12
    pushq   %r13
    pushq   %r14
    pushq   %r15
    pushq   %rdi
    pushq   %rdx
    .if     \careful
    "#,
    careful_entry!(),
    r#"
    .endif
    movq    %rsi, %rax
    movq    {rbx}(%rdi), %rbx
    movq    {rcx}(%rdi), %rcx
    movq    {rdx}(%rdi), %rdx
    movq    {rsi}(%rdi), %rsi
    movq    {rbp}(%rdi), %rbp
    movq    {r8}(%rdi), %r8
    movq    {r9}(%rdi), %r9
    movq    {r10}(%rdi), %r10
    movq    {r11}(%rdi), %r11
    movq    {r12}(%rdi), %r12
    movq    {r13}(%rdi), %r13
    movq    {r14}(%rdi), %r14
    movq    {r15}(%rdi), %r15
    movq    {rdi}(%rdi), %rdi
    clgi
    sti                                 // physical interrupts end the guest
    vmload  %rax
    vmrun   %rax
    vmsave  %rax
    cli
    xchgq   %rdi, 8(%rsp)               // the registers; the guest's rdi stays on the stack for now
    movq    %rbx, {rbx}(%rdi)
    movq    %rcx, {rcx}(%rdi)
    movq    %rdx, {rdx}(%rdi)
    movq    %rsi, {rsi}(%rdi)
    movq    %rbp, {rbp}(%rdi)
    movq    %r8, {r8}(%rdi)
    movq    %r9, {r9}(%rdi)
    movq    %r10, {r10}(%rdi)
    movq    %r11, {r11}(%rdi)
    movq    %r12, {r12}(%rdi)
    movq    %r13, {r13}(%rdi)
    movq    %r14, {r14}(%rdi)
    movq    %r15, {r15}(%rdi)
    popq    %rax
    vmload  %rax                        // the host's segments
    .if     \careful
    "#,
    careful_exit!(),
    r#"
    .endif
    stgi
    popq    %rcx
    movq    %rcx, {rdi}(%rdi)
    popq    %r15
    popq    %r14
    popq    %r13
    popq    %r12
    popq    %rbp
    popq    %rbx
    retq
    .endm

    .balign 16
    .global svm_enter
svm_enter:
    cmpb    $0, {spec_careful}(%rip)
    jne     svm_enter_careful
    svm_world_switch 0

    .balign 16
svm_enter_careful:
    svm_world_switch 1
    .text
    "#,
    rbx = const offset_of!(GuestRegs, rbx),
    rcx = const offset_of!(GuestRegs, rcx),
    rdx = const offset_of!(GuestRegs, rdx),
    rsi = const offset_of!(GuestRegs, rsi),
    rdi = const offset_of!(GuestRegs, rdi),
    rbp = const offset_of!(GuestRegs, rbp),
    r8 = const offset_of!(GuestRegs, r8),
    r9 = const offset_of!(GuestRegs, r9),
    r10 = const offset_of!(GuestRegs, r10),
    r11 = const offset_of!(GuestRegs, r11),
    r12 = const offset_of!(GuestRegs, r12),
    r13 = const offset_of!(GuestRegs, r13),
    r14 = const offset_of!(GuestRegs, r14),
    r15 = const offset_of!(GuestRegs, r15),
    spec_careful = sym apply::CAREFUL,
    spec_ctrl = const offset_of!(GuestRegs, spec_ctrl),
    spec_work = sym apply::WORK,
    spec_host = sym apply::HOST,
    spec_selector = sym apply::SELECTOR,
    spec_switch = const apply::SWITCH,
    spec_verw = const apply::VERW,
    spec_flush = const apply::FLUSH,
    spec_returns = const apply::RETURNS,
    options(att_syntax),
);

unsafe extern "C" {
    fn svm_enter(regs: *mut GuestRegs, guest: HostPhys, host: HostPhys);
}

/// Runs the guest until it stops. RAX is in its block.
///
/// # Safety
/// `regs` is the vCPU's and used by nobody else; `guest` is the block of that vCPU with a valid state, `host` that of this
/// CPU, filled by VMSAVE; SVM is on, interrupts are masked.
#[inline(always)]
pub unsafe fn enter(regs: *mut GuestRegs, guest: HostPhys, host: HostPhys) {
    // SAFETY: as the caller promises; the routine keeps the registers that the calling convention wants kept.
    unsafe { svm_enter(regs, guest, host) }
}
