//! The world switch (AMD APM, volume 2, 15.5, 15.6 and 15.17).
//!
//! Between CLGI and STGI nothing interrupts. The guest runs with the host's interrupt flag set, so a physical interrupt
//! ends it; at the exit the flag is cleared before STGI, so that the interrupt is taken where the run loop opens for it.
//! STI holds interrupts back for one instruction; when that was VMRUN, the guest would run on past an interrupt that waits.
//! What VMRUN leaves alone (FS, GS, TR, LDTR, the system-call registers) stays the guest's: the hypervisor needs none of it
//! while it serves an exit ([`super::hidden`]).

use xenolith_hal::HostPhys;

use crate::{
    guest::{
        regs::GuestRegs,
        switch::{load_registers, pop_own_and_return, push_own, store_registers, world_switch},
    },
    speculation::apply::{careful_entry, careful_exit},
};

world_switch! {
    r#"
    .section .text.svm_enter, "ax"
    // rdi: registers, rsi: physical address of the guest's block.
    .macro  svm_world_switch careful
    "#,
    push_own!(),
    r#"
    pushq   %rdi
    .if     \careful
    "#,
    careful_entry!(),
    r#"
    .endif
    movq    %rsi, %rax
    clgi
    sti                                 // physical interrupts end the guest; not right before VMRUN, see above
    "#,
    load_registers!(),
    r#"
    vmrun   %rax
    cli
    xchgq   %rdi, (%rsp)                // the registers; the guest's rdi stays on the stack for now
    "#,
    store_registers!(),
    r#"
    .if     \careful
    "#,
    careful_exit!(),
    r#"
    .endif
    stgi
    popq    %rcx
    movq    %rcx, {rdi}(%rdi)
    "#,
    pop_own_and_return!(),
    r#"
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
    ;
}

unsafe extern "C" {
    fn svm_enter(regs: *mut GuestRegs, guest: HostPhys);
}

/// Runs the guest until it stops. RAX is in its block.
///
/// # Safety
/// `regs` is the vCPU's and used by nobody else; `guest` is the block of that vCPU with a valid state, its hidden part loaded;
/// SVM is on, interrupts are masked.
#[inline(always)]
pub unsafe fn enter(regs: *mut GuestRegs, guest: HostPhys) {
    // SAFETY: as the caller promises; the routine keeps the registers that the calling convention wants kept.
    unsafe { svm_enter(regs, guest) }
}
