//! Code in user mode: entered by SRET with the registers that a case gives, left by the first trap of whatever kind.

use core::arch::global_asm;
use core::mem::offset_of;

/// Registers of user code, and what brought it back.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct User {
    /// Where it runs, or was when it was left.
    pub pc: u64,
    /// x1 to x31.
    pub x: [u64; 31],
    /// scause of the trap that ended it.
    pub cause: u64,
    /// stval of that trap.
    pub value: u64,
    kernel: [u64; 18],
}

impl User {
    /// Code at `pc` with its stack below `stack`, and `argument` in a0.
    pub fn new(pc: u64, stack: u64, argument: u64) -> Self {
        let mut x = [0; 31];
        x[SP - 1] = stack;
        x[A0 - 1] = argument;
        Self {
            pc,
            x,
            cause: 0,
            value: 0,
            kernel: [0; 18],
        }
    }

    /// Register x`number`.
    pub fn register(&self, number: usize) -> u64 {
        self.x[number - 1]
    }

    /// Runs it until something traps. Interrupts that are switched on in sie end it too if `interruptible`.
    pub fn run(&mut self, interruptible: bool) {
        let on = super::irqs_are_on();
        super::irq_off();
        // SAFETY: what runs is in user mode, and every trap from there comes back here with this function's registers.
        unsafe { guest_user_run(self, u64::from(interruptible)) };
        if on {
            super::irq_on();
        }
    }
}

/// Number of the first argument register.
pub const A0: usize = 10;
const SP: usize = 2;

unsafe extern "C" {
    fn guest_user_run(user: *mut User, interruptible: u64);
}

global_asm!(
    r#"
    // a0: the user's registers, which sscratch names while it runs; a1: whether sie stays as it is.
guest_user_run:
    .irp    n, 0,1,2,3,4,5,6,7,8,9,10,11
    sd      s\n, {kernel}+8*\n(a0)
    .endr
    sd      ra, {kernel}+96(a0)
    sd      sp, {kernel}+104(a0)
    sd      gp, {kernel}+112(a0)
    sd      tp, {kernel}+120(a0)
    csrr    t0, stvec
    sd      t0, {kernel}+128(a0)
    csrr    t0, sie
    sd      t0, {kernel}+136(a0)
    bnez    a1, 1f
    csrw    sie, zero
1:  lla     t0, guest_user_vector
    csrw    stvec, t0
    csrw    sscratch, a0
    li      t0, 0x120               // return to user mode
    csrc    sstatus, t0
    ld      t0, 0(a0)
    csrw    sepc, t0
    .irp    n, 1,2,3,4,5,6,7,8,9,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31,10
    ld      x\n, 8*\n(a0)
    .endr
    sret

    .balign 4
guest_user_vector:
    csrrw   a0, sscratch, a0
    .irp    n, 1,2,3,4,5,6,7,8,9,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
    sd      x\n, 8*\n(a0)
    .endr
    csrrw   t0, sscratch, zero
    sd      t0, 80(a0)
    csrr    t0, sepc
    sd      t0, 0(a0)
    csrr    t0, scause
    sd      t0, {cause}(a0)
    csrr    t0, stval
    sd      t0, {value}(a0)
    ld      t0, {kernel}+128(a0)
    csrw    stvec, t0
    ld      t0, {kernel}+136(a0)
    csrw    sie, t0
    .irp    n, 0,1,2,3,4,5,6,7,8,9,10,11
    ld      s\n, {kernel}+8*\n(a0)
    .endr
    ld      ra, {kernel}+96(a0)
    ld      sp, {kernel}+104(a0)
    ld      gp, {kernel}+112(a0)
    ld      tp, {kernel}+120(a0)
    ret
"#,
    kernel = const offset_of!(User, kernel),
    cause = const offset_of!(User, cause),
    value = const offset_of!(User, value),
);
