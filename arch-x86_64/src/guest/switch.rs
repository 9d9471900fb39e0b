//! What the world switches of both backends share: general registers between a guest and [`GuestRegs`], and the operands of
//! the speculation parts.
//!
//! [`GuestRegs`]: super::regs::GuestRegs

/// Assembly: every general register but RAX, RSP and RDI from the place that RDI points to, then RDI itself.
macro_rules! load_registers {
    () => {
        r#"
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
        "#
    };
}

/// Assembly: every general register but RAX, RSP and RDI to the place that RDI points to. The guest's RDI is elsewhere.
macro_rules! store_registers {
    () => {
        r#"
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
        "#
    };
}

/// Assembly: what the hypervisor's calling convention wants kept goes to the stack.
macro_rules! push_own {
    () => {
        r#"
    pushq   %rbx
    pushq   %rbp
    pushq   %r12
    pushq   %r13
    pushq   %r14
    pushq   %r15
        "#
    };
}

/// Assembly: takes it back, and returns.
macro_rules! pop_own_and_return {
    () => {
        r#"
    popq    %r15
    popq    %r14
    popq    %r13
    popq    %r12
    popq    %rbp
    popq    %rbx
    retq
        "#
    };
}

/// A world switch: lines of assembly, then operands beyond those of the parts here.
macro_rules! world_switch {
    ($($line:expr,)* ; $($operand:tt)*) => {
        ::core::arch::global_asm!(
            $($line,)*
            rbx = const ::core::mem::offset_of!($crate::guest::regs::GuestRegs, rbx),
            rcx = const ::core::mem::offset_of!($crate::guest::regs::GuestRegs, rcx),
            rdx = const ::core::mem::offset_of!($crate::guest::regs::GuestRegs, rdx),
            rsi = const ::core::mem::offset_of!($crate::guest::regs::GuestRegs, rsi),
            rdi = const ::core::mem::offset_of!($crate::guest::regs::GuestRegs, rdi),
            rbp = const ::core::mem::offset_of!($crate::guest::regs::GuestRegs, rbp),
            r8 = const ::core::mem::offset_of!($crate::guest::regs::GuestRegs, r8),
            r9 = const ::core::mem::offset_of!($crate::guest::regs::GuestRegs, r9),
            r10 = const ::core::mem::offset_of!($crate::guest::regs::GuestRegs, r10),
            r11 = const ::core::mem::offset_of!($crate::guest::regs::GuestRegs, r11),
            r12 = const ::core::mem::offset_of!($crate::guest::regs::GuestRegs, r12),
            r13 = const ::core::mem::offset_of!($crate::guest::regs::GuestRegs, r13),
            r14 = const ::core::mem::offset_of!($crate::guest::regs::GuestRegs, r14),
            r15 = const ::core::mem::offset_of!($crate::guest::regs::GuestRegs, r15),
            spec_careful = sym $crate::speculation::apply::CAREFUL,
            spec_ctrl = const ::core::mem::offset_of!($crate::guest::regs::GuestRegs, spec_ctrl),
            spec_work = sym $crate::speculation::apply::WORK,
            spec_host = sym $crate::speculation::apply::HOST,
            spec_selector = sym $crate::speculation::apply::SELECTOR,
            spec_switch = const $crate::speculation::apply::SWITCH,
            spec_verw = const $crate::speculation::apply::VERW,
            spec_flush = const $crate::speculation::apply::FLUSH,
            spec_returns = const $crate::speculation::apply::RETURNS,
            $($operand)*
            options(att_syntax),
        );
    };
}

pub(crate) use {load_registers, pop_own_and_return, push_own, store_registers, world_switch};
