//! The world switch (Intel SDM, volume 3, chapters 27 and 28).
//!
//! The control structure switches RSP, RIP, RFLAGS, segments and the control registers; this code the other general
//! registers. Interrupts are masked: one that comes ends the guest and stays pending, since exits do not acknowledge it.

use core::mem::offset_of;

use super::fields::{HOST_RIP, HOST_RSP};
use crate::{
    guest::{
        regs::GuestRegs,
        switch::{load_registers, pop_own_and_return, push_own, store_registers, world_switch},
    },
    speculation::apply::{careful_entry, careful_exit},
};

world_switch! {
    r#"
    .section .text.vmx_enter, "ax"
    // rdi: registers, esi: 0 for the first entry after VMCLEAR. Returns 0, or 1 when the CPU did not enter.
    .macro  vmx_world_switch careful
    "#,
    push_own!(),
    r#"
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
    "#,
    load_registers!(),
    r#"
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
    "#,
    store_registers!(),
    r#"
    popq    %rcx
    movq    %rcx, {rdi}(%rdi)
    addq    $8, %rsp
    .if     \careful
    "#,
    careful_exit!(),
    r#"
    .endif
    xorl    %eax, %eax
3:
    "#,
    pop_own_and_return!(),
    r#"
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
    ;
    host_rsp = const HOST_RSP.encoding(),
    host_rip = const HOST_RIP.encoding(),
    rax = const offset_of!(GuestRegs, rax),
}

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
