//! The way between the hypervisor and guests in ring 3 (AMD APM, volume 2, 6.1 and 8.9; Intel SDM, volume 3, 5.8.8).
//!
//! [`run`] enters a guest and serves its exits until the CPU has something else to do. A guest that stops, for whatever
//! reason, leaves a [`Frame`] at the top of its CPU's gate page ([`super::gate`]): the CPU starts there on an interrupt, and a system
//! call is given the same form. The hypervisor's own registers are on its stack meanwhile, once for many exits.
//!
//! A system call finds the gate page because each CPU has an entry of its own in the text, at a fixed distance from its page.

use core::arch::global_asm;

use super::{
    frame::{Frame, push_general},
    gate::{Gate, STRIDE},
};
use crate::cpu::{
    descriptors::{CPU_NUMBER, USER_CODE, USER_CODE_32, USER_DATA},
    percpu::PerCpu,
};
use core::mem::{offset_of, size_of};

/// What [`Frame::vector`] says after a SYSCALL in 64-bit code. A frame that still says so is left by SYSRET.
pub const SYSCALL: u64 = 256;
/// After a SYSCALL in 32-bit code.
pub const SYSCALL_32: u64 = 257;
/// After a SYSENTER. Where it was is not known.
pub const SYSENTER: u64 = 258;
/// The registers of the guest cannot be returned to; the gate says which exception that was.
pub const RETURN_FAILED: u64 = 259;

global_asm!(
    r#"
    .section .text.pv_entry, "ax"
    .balign 32
    .global pv_syscall_entries
pv_syscall_entries:                     // one for each CPU, every 32 bytes
    .set cpu, 0
    .rept 256
    .balign 32
    movq    %rsp, pv_gates + cpu * {stride} + {scratch}(%rip)
    leaq    pv_gates + cpu * {stride} + {top}(%rip), %rsp
    jmp     pv_syscall
    .set cpu, cpu + 1
    .endr

    .balign 32
    .global pv_syscall_32_entries
pv_syscall_32_entries:
    .set cpu, 0
    .rept 256
    .balign 32
    movq    %rsp, pv_gates + cpu * {stride} + {scratch}(%rip)
    leaq    pv_gates + cpu * {stride} + {top}(%rip), %rsp
    jmp     pv_syscall_32
    .set cpu, cpu + 1
    .endr

    .balign 16
    .global pv_sysenter
pv_sysenter:                            // RSP is the top of the gate page
    pushq   ${user_data}
    pushq   $0
    pushfq
    pushq   ${user_code_32}
    pushq   $0
    pushq   $0
    pushq   ${sysenter_vector}
    "#,
    push_general!(),
    r#"
    pushq   $2                          // SYSENTER leaves NT and others as the program had them
    popfq
    jmp     pv_stopped

    .balign 16
pv_syscall_32:
    pushq   ${user_data}
    pushq   {scratch} - {top} + 8(%rsp)
    pushq   %r11
    pushq   ${user_code_32}
    pushq   %rcx
    pushq   $0
    pushq   ${syscall_32_vector}
    "#,
    push_general!(),
    r#"
    jmp     pv_stopped

pv_return_failed:                       // RSP is where it was at IRETQ, and all other registers are the guest's
    pushq   $0
    pushq   ${failed_vector}
    "#,
    push_general!(),
    r#"
    jmp     pv_stopped

    // The guest was interrupted while this CPU was on another stack: its frame goes to the gate page.
    .global pv_stopped_elsewhere
pv_stopped_elsewhere:
    movl    ${cpu_number}, %eax
    lsl     %eax, %eax
    imulq   ${stride}, %rax
    leaq    pv_gates + {frame}(%rip), %rdi
    addq    %rax, %rdi
    movq    %rsp, %rsi
    movq    %rdi, %rsp
    movl    ${words}, %ecx
    rep movsq
    jmp     pv_stopped

    .balign 16
pv_syscall:
    pushq   ${user_data}
    pushq   {scratch} - {top} + 8(%rsp)
    pushq   %r11
    pushq   ${user_code}
    pushq   %rcx
    pushq   $0
    pushq   ${syscall_vector}
    "#,
    push_general!(),
    r#"

    .global pv_stopped
pv_stopped:                             // RSP is the frame
    movq    %rsp, %rbx
    movq    %rsp, %rsi
    movq    {cpu} - {frame}(%rsp), %rdi
    movq    {own_rsp} - {frame}(%rsp), %rsp
    callq   {stopped}
    testl   %eax, %eax
    jnz     pv_leave
    movq    %rbx, %rsp
pv_resume:
    popq    %r15
    popq    %r14
    popq    %r13
    popq    %r12
    popq    %r11
    popq    %r10
    popq    %r9
    popq    %r8
    popq    %rbp
    popq    %rdi
    popq    %rsi
    popq    %rdx
    popq    %rcx
    popq    %rbx
    popq    %rax
    cmpl    ${syscall_vector}, (%rsp)
    jne     1f
    movq    16(%rsp), %rcx
    movq    %rcx, %r11
    shlq    $16, %r11
    sarq    $16, %r11
    cmpq    %rcx, %r11                  // SYSRET to where no code can be would fault in ring 0
    jne     1f
    movq    32(%rsp), %r11
    movq    40(%rsp), %rsp
    sysretq
1:  addq    $16, %rsp
2:  iretq
    .pushsection ex_table, "a"
    .quad   2b, pv_return_failed
    .popsection

    .balign 16
    .global pv_run
pv_run:                                 // rdi: the frame
    pushq   %rbx
    pushq   %rbp
    pushq   %r12
    pushq   %r13
    pushq   %r14
    pushq   %r15
    subq    $8, %rsp
    movq    %rsp, {own_rsp} - {frame}(%rdi)
    movq    %rdi, %rsp
    jmp     pv_resume

pv_leave:
    addq    $8, %rsp
    popq    %r15
    popq    %r14
    popq    %r13
    popq    %r12
    popq    %rbp
    popq    %rbx
    retq
    .text
    "#,
    stride = const STRIDE,
    scratch = const offset_of!(Gate, scratch),
    own_rsp = const offset_of!(Gate, own_rsp),
    cpu = const offset_of!(Gate, cpu),
    frame = const offset_of!(Gate, frame),
    top = const size_of::<Gate>(),
    words = const size_of::<Frame>() / 8,
    user_data = const USER_DATA,
    user_code = const USER_CODE,
    user_code_32 = const USER_CODE_32,
    cpu_number = const CPU_NUMBER,
    syscall_vector = const SYSCALL,
    syscall_32_vector = const SYSCALL_32,
    sysenter_vector = const SYSENTER,
    failed_vector = const RETURN_FAILED,
    stopped = sym super::run::stopped,
    options(att_syntax),
);

unsafe extern "C" {
    fn pv_run(frame: *mut Frame);
    static pv_syscall_entries: u8;
    static pv_syscall_32_entries: u8;
    static pv_sysenter: u8;
}

/// Addresses of the code that a CPU enters on SYSCALL, on SYSCALL from 32-bit code, and on SYSENTER.
#[must_use]
pub fn entries(cpu: &PerCpu) -> [u64; 3] {
    const EACH: u64 = 32;
    let own = cpu.id.index() as u64 * EACH;
    [
        &raw const pv_syscall_entries as u64 + own,
        &raw const pv_syscall_32_entries as u64 + own,
        &raw const pv_sysenter as u64,
    ]
}

/// Enters the guest whose registers are in the gate page, serves what it stops for, and returns when the CPU has something
/// else to do. The frame then holds the guest's registers.
///
/// # Safety
/// `frame` is in the gate page of the executing CPU, its selectors are of ring 3, and interrupts will be enabled by its flags. The
/// guest's address space is loaded, the gate names the CPU and the vCPU, and nobody holds a reference to the frame.
#[inline(always)]
pub unsafe fn run(frame: *mut Frame) {
    // SAFETY: as the caller promises; the routine keeps the registers that the calling convention wants kept.
    unsafe { pv_run(frame) }
}
