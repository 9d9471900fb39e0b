//! The world switch (Intel SDM, volume 3, chapters 27 and 28).
//!
//! The control structure switches RSP, RIP, RFLAGS, segments and the control registers; this code the other general
//! registers. Interrupts are masked: one that comes ends the guest and stays pending, since exits do not acknowledge it.

use core::{arch::global_asm, mem::offset_of};

use super::fields::{HOST_RIP, HOST_RSP};
use crate::{
    guest::regs::GuestRegs,
    speculation::apply::{self, careful_entry, careful_exit},
};

global_asm!(
    r#"
    .section .text.vmx_enter, "ax"
    // rdi: registers, esi: 0 for the first entry after VMCLEAR. Returns 0, or 1 when the CPU did not enter.
    .macro  vmx_world_switch careful
    pushq   %rbx
    pushq   %rbp
    pushq   %r12
    pushq   %r13
    pushq   %r14
    pushq   %r15
    pushq   %rdi
    subq    $8, %rsp                    // for the guest's rdi
    movl    ${host_rsp}, %eax
    vmwrite %rsp, %rax
    leaq    4f(%rip), %rdx
    movl    ${host_rip}, %eax
    vmwrite %rdx, %rax
    .if     \careful
    "#,
    careful_entry!(),
    r#"
    .endif
    testl   %esi, %esi                  // moves leave the flag alone
    movq    {rax}(%rdi), %rax
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
    jz      1f
    vmresume
    jmp     2f
1:  vmlaunch
2:  addq    $16, %rsp                   // only a refused entry comes here
    .if     \careful
    "#,
    careful_exit!(),
    r#"
    .endif
    movl    $1, %eax
    jmp     3f

    .balign 16
4:
    movq    %rdi, (%rsp)
    movq    8(%rsp), %rdi
    movq    %rax, {rax}(%rdi)
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
    popq    %rcx
    movq    %rcx, {rdi}(%rdi)
    addq    $8, %rsp
    .if     \careful
    "#,
    careful_exit!(),
    r#"
    .endif
    xorl    %eax, %eax
3:  popq    %r15
    popq    %r14
    popq    %r13
    popq    %r12
    popq    %rbp
    popq    %rbx
    retq
    .endm

    .balign 16
    .global vmx_enter
vmx_enter:
    cmpb    $0, {spec_careful}(%rip)
    jne     vmx_enter_careful
    vmx_world_switch 0

    .balign 16
vmx_enter_careful:
    vmx_world_switch 1
    .text
    "#,
    host_rsp = const HOST_RSP.encoding(),
    host_rip = const HOST_RIP.encoding(),
    rax = const offset_of!(GuestRegs, rax),
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
    fn vmx_enter(regs: *mut GuestRegs, launched: u32) -> u32;
}

/// Runs the guest of the current control structure until it stops. False when the CPU refused to enter.
///
/// # Safety
/// `regs` is the vCPU's and used by nobody else; the current control structure is that vCPU's, with the host state of this
/// CPU; `launched` says whether it was entered since it was cleared; interrupts are masked.
#[inline(always)]
pub unsafe fn enter(regs: *mut GuestRegs, launched: bool) -> bool {
    // SAFETY: as the caller promises; the routine keeps the registers that the calling convention wants kept.
    unsafe { vmx_enter(regs, launched.into()) == 0 }
}
