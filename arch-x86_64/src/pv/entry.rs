//! The way between the hypervisor and guests in ring 3 (AMD APM, volume 2, 6.1 and 8.9; Intel SDM, volume 3, 5.8.8).
//!
//! [`run`] enters a guest and serves its exits until the CPU has something else to do. A guest that stops, for whatever
//! reason, leaves a [`Frame`] at the top of its CPU's gate page ([`super::gate`]): the CPU starts there on an interrupt, and a system
//! call is given the same form. The hypervisor's own registers are on its stack meanwhile, once for many exits.
//!
//! A system call finds the gate page because each CPU has an entry of its own in the text, at a fixed distance from its page.

use core::arch::global_asm;

use xenolith_core::Errno;

use super::{
    frame::{Frame, pop_behind_r13, push_general},
    gate::{Gate, STRIDE},
    hypercall::{CALLS, TABLE},
    short,
    vcpu::{Info, Mode, PvVcpu},
};
use crate::cpu::{
    descriptors::{CPU_NUMBER, USER_CODE, USER_CODE_32, USER_DATA},
    percpu::PerCpu,
};
use core::mem::{offset_of, size_of};

const PAGE_FAULT: u64 = 14;
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
    movq    %rsp, pv_gates + cpu * {stride} + {frame} + {rsp}(%rip)
    leaq    pv_gates + cpu * {stride} + {frame}(%rip), %rsp
    jmp     pv_syscall
    .set cpu, cpu + 1
    .endr

    .balign 32
    .global pv_syscall_32_entries
pv_syscall_32_entries:
    .set cpu, 0
    .rept 256
    .balign 32
    movq    %rsp, pv_gates + cpu * {stride} + {frame} + {rsp}(%rip)
    leaq    pv_gates + cpu * {stride} + {frame} + {ss}(%rip), %rsp
    jmp     pv_syscall_32
    .set cpu, cpu + 1
    .endr

    .balign 16
    .global pv_sysenter, pv_sysenter_known
pv_sysenter:                            // RSP is the top of the gate page
    pushq   ${user_data}
    pushq   $0
    pushfq
pv_sysenter_known:
    pushq   $3                          // no segment and no address: the CPU does not say where it was
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
pv_syscall_32:                          // RSP is the frame's SS
    movq    ${user_data}, (%rsp)
    subq    $8, %rsp                    // its RSP is there
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

    // Marks where the code of `super::guard` takes over, on machines that need it: a jump goes there instead of what stands
    // between the two labels (the linker's script sees to it that there is room).
    .macro guarded name
    .global \name
    .global \name\()_rest
    .endm

    // The registers that a function may change, of which SYSCALL has changed RCX and R11, to the frame and back.
    .macro store_arguments
    movq    %rdi, {rdi}(%rsp)
    movq    %rsi, {rsi}(%rsp)
    movq    %rdx, {rdx}(%rsp)
    movq    %r10, {r10}(%rsp)
    movq    %r8, {r8}(%rsp)
    movq    %r9, {r9}(%rsp)
    .endm
    .macro load_arguments at
\at:
    movq    {rdi}(%rsp), %rdi
\at\()_rest:
    movq    {rsi}(%rsp), %rsi
    movq    {rdx}(%rsp), %rdx
    movq    {r10}(%rsp), %r10
    movq    {r8}(%rsp), %r8
    movq    {r9}(%rsp), %r9
    guarded \at
    .endm
    // Those that it keeps: the guest's, wherever a short way has ended.
    .macro store_kept
    movq    %rbx, {rbx}(%rsp)
    movq    %rbp, {rbp}(%rsp)
    movq    %r12, {r12}(%rsp)
    movq    %r13, {r13}(%rsp)
    movq    %r14, {r14}(%rsp)
    movq    %r15, {r15}(%rsp)
    .endm
    // Calls a function with the frame, on the hypervisor's stack, whose end says where the frame is.
    .macro with_frame function
    movq    %rsp, %rdi
    movq    {own_rsp} - {frame}(%rsp), %rsp
    callq   \function
    movq    (%rsp), %rsp
    .endm
    // Puts into the frame what SYSCALL implies.
    .macro complete_frame
    store_kept
    movq    {rip}(%rsp), %rcx
    movq    %rcx, {rcx}(%rsp)
    movq    {rflags}(%rsp), %rcx
    movq    %rcx, {r11}(%rsp)
    movq    ${syscall_vector}, {vector}(%rsp)
    movq    $0, {error}(%rsp)
    movq    ${user_code}, {cs}(%rsp)
    movq    ${user_data}, {ss}(%rsp)
    .endm

    .balign 16
pv_syscall:                             // RSP is the frame, whose RSP is there
    movq    %rcx, {rip}(%rsp)
pv_syscall_rest:
    guarded pv_syscall
    movq    %r11, {rflags}(%rsp)
    movq    %rax, {rax}(%rsp)
    store_arguments
    movq    {pv} - {frame}(%rsp), %r11
    cmpb    ${kernel}, {mode}(%r11)
    jne     pv_program_call
    cmpq    ${calls}, %rax
    jae     pv_no_call
    andl    ${calls} - 1, %eax          // also where the CPU runs ahead of the comparison
    movq    %r10, %rcx                  // the fourth argument, where functions have it; the sixth is the frame
    movq    %rsp, %r9
    leaq    {table}(%rip), %r11
    movq    {own_rsp} - {frame}(%rsp), %rsp
    callq   *(%r11, %rax, 8)
    movq    (%rsp), %rsp
pv_served:                              // RAX is the result
    movq    {work} - {frame}(%rsp), %rcx
    cmpl    $0, (%rcx)
    jne     pv_look
    movq    {pv} - {frame}(%rsp), %rcx
    cmpb    $0, {looks}(%rcx)
    jne     pv_look
    movq    {info}(%rcx), %rcx
    cmpb    $0, {pending}(%rcx)
    jne     pv_may_wait
pv_sysret:
    movq    {rip}(%rsp), %rcx
    testl   %ecx, %ecx                  // SYSRET to where no code can be would fault in ring 0: 2^47, behind a SYSCALL
    jz      pv_look                     // in the last bytes of the lower half. The long way looks closer
    load_arguments pv_sysret_exit
    movq    {rflags}(%rsp), %r11
    movq    {rsp}(%rsp), %rsp
    sysretq

pv_no_call:
    movq    ${no_call}, %rax
    jmp     pv_served

pv_may_wait:
    cmpb    $0, {mask}(%rcx)
    jne     pv_sysret                   // what waits is masked
    movq    %rax, {rax}(%rsp)
    with_frame {event}
    testl   %eax, %eax
    jz      pv_sysret_all
    movq    {rax}(%rsp), %rax
pv_look:
    movq    %rax, {rax}(%rsp)
    complete_frame
    jmp     pv_look_at_frame

    .balign 16
pv_program_call:
    with_frame {program_call}
    testl   %eax, %eax
    jnz     pv_syscall_long
pv_sysret_all:
    movq    {rax}(%rsp), %rax
    jmp     pv_sysret
pv_syscall_long:
    complete_frame
    jmp     pv_stopped_full

    .balign 16
    .global pv_iret
pv_iret:                                // a row of the table
    movq    %r9, %rdi
    addq    $8, %rsp
    callq   {iret}
    movq    (%rsp), %rsp
    testl   %eax, %eax
    jz      pv_sysret_all
    cmpl    ${look_code}, %eax
    ja      pv_syscall_long
    je      1f
    load_arguments pv_iret_exit
    movq    {rax}(%rsp), %rax
    movq    {rcx}(%rsp), %rcx
    movq    {r11}(%rsp), %r11
    addq    ${rip}, %rsp
    jmp     pv_iretq
1:  store_kept
    jmp     pv_look_at_frame

    .balign 16
pv_page_fault:                          // in ring 3; the stack has the error code and what is above it
    subq    ${error}, %rsp
pv_page_fault_rest:
    guarded pv_page_fault
    .global pv_page_fault_open, pv_page_fault_open_rest
pv_page_fault_open:
    movq    %rax, {rax}(%rsp)
pv_page_fault_open_rest:
    movq    %rcx, {rcx}(%rsp)
    movq    %r11, {r11}(%rsp)
    store_arguments
    cld
    with_frame {page_fault}
    testl   %eax, %eax
    jz      pv_sysret_all
    movq    ${page_vector}, {vector}(%rsp)
    store_kept
    jmp     pv_stopped_full

pv_look_at_frame:
    movq    %rsp, %rsi
    movq    {cpu} - {frame}(%rsp), %rdi
    movq    {own_rsp} - {frame}(%rsp), %rsp
    callq   {look}
    jmp     pv_go

pv_stopped:                             // RSP is the frame, which has everything; straight from the guest
    .byte   0xe9                        // a jump of five bytes
    .long   pv_stopped_full - pv_stopped - 5
    .global pv_stopped
    .global pv_stopped_full
pv_stopped_full:                        // the same, with the address space of the hypervisor
    movq    %rsp, %rsi
    movq    {cpu} - {frame}(%rsp), %rdi
    .global pv_stopped_full_rest
pv_stopped_full_rest:
    movq    {own_rsp} - {frame}(%rsp), %rsp
    callq   {stopped}
pv_go:
    testl   %eax, %eax
    jnz     pv_leave
    movq    (%rsp), %rsp
pv_resume:
    popq    %r15
    popq    %r14
    popq    %r13
pv_resume_rest:
    guarded pv_resume
    "#,
    pop_behind_r13!(),
    r#"
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
pv_iretq:
    iretq
2:
    .pushsection ex_table, "a"
    .quad   pv_iretq, 2b, pv_return_failed
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
    pushq   %rdi
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
    own_rsp = const offset_of!(Gate, head.own_rsp),
    cpu = const offset_of!(Gate, head.cpu),
    work = const offset_of!(Gate, head.work),
    pv = const offset_of!(Gate, head.pv),
    frame = const offset_of!(Gate, frame),
    mode = const offset_of!(PvVcpu, mode),
    looks = const offset_of!(PvVcpu, looks),
    info = const PvVcpu::INFO,
    mask = const offset_of!(Info, mask),
    pending = const offset_of!(Info, pending),
    kernel = const Mode::Kernel as u8,
    rax = const offset_of!(Frame, rax),
    rbx = const offset_of!(Frame, rbx),
    rcx = const offset_of!(Frame, rcx),
    rdx = const offset_of!(Frame, rdx),
    rsi = const offset_of!(Frame, rsi),
    rdi = const offset_of!(Frame, rdi),
    rbp = const offset_of!(Frame, rbp),
    r8 = const offset_of!(Frame, r8),
    r9 = const offset_of!(Frame, r9),
    r10 = const offset_of!(Frame, r10),
    r11 = const offset_of!(Frame, r11),
    r12 = const offset_of!(Frame, r12),
    r13 = const offset_of!(Frame, r13),
    r14 = const offset_of!(Frame, r14),
    r15 = const offset_of!(Frame, r15),
    vector = const offset_of!(Frame, vector),
    error = const offset_of!(Frame, error),
    rip = const offset_of!(Frame, rip),
    cs = const offset_of!(Frame, cs),
    rflags = const offset_of!(Frame, rflags),
    rsp = const offset_of!(Frame, rsp),
    ss = const offset_of!(Frame, ss),
    calls = const CALLS,
    no_call = const Errno::ENOSYS.neg_i32(),
    look_code = const short::LOOK,
    page_vector = const PAGE_FAULT,
    table = sym TABLE,
    event = sym short::event,
    program_call = sym short::program_call,
    iret = sym short::iret,
    page_fault = sym short::page_fault,
    look = sym super::run::look,
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
    /// The row of `iret`, which has a way of its own back to the guest.
    pub fn pv_iret(_: u64, _: u64, _: u64, _: u64, _: u64, frame: *mut Frame) -> u64;
    fn pv_run(frame: *mut Frame);
    static pv_syscall_entries: u8;
    static pv_syscall_32_entries: u8;
    static pv_sysenter: u8;
    static pv_sysenter_known: u8;
}

/// Whether a single step ended where the flags of a program that makes single steps are still the CPU's: SYSENTER masks none.
#[must_use]
pub fn is_before_flags_are_known(rip: u64) -> bool {
    (&raw const pv_sysenter as u64..&raw const pv_sysenter_known as u64).contains(&rip)
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
