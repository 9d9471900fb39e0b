//! The world switch.
//!
//! [`enter`] runs the guest until something needs the hypervisor. Only general registers, PC and the two status registers
//! move here; VS-mode's registers stay in the CPU until another vCPU is loaded (`guest/context.rs`).

use core::arch::{asm, global_asm};

use super::regs::read;
use crate::guest::regs::{
    GuestRegs, OFFSET_HOST_SP, OFFSET_HOST_TP, OFFSET_HSTATUS, OFFSET_PC, OFFSET_SSTATUS,
};

global_asm!(
    r#"
    .section .text.vectors, "ax"
    .balign 4
guest_exit:                             // sscratch: GuestRegs
    csrrw   a0, sscratch, a0
    sd      x1, 8(a0)
    sd      x2, 16(a0)
    sd      x3, 24(a0)
    sd      x4, 32(a0)
    sd      x5, 40(a0)
    sd      x6, 48(a0)
    sd      x7, 56(a0)
    sd      x8, 64(a0)
    sd      x9, 72(a0)
    csrr    t0, sscratch
    csrr    t1, sepc
    sd      x11, 88(a0)
    sd      x12, 96(a0)
    sd      x13, 104(a0)
    sd      x14, 112(a0)
    sd      x15, 120(a0)
    sd      x16, 128(a0)
    sd      x17, 136(a0)
    sd      x18, 144(a0)
    sd      x19, 152(a0)
    sd      x20, 160(a0)
    sd      x21, 168(a0)
    sd      x22, 176(a0)
    sd      x23, 184(a0)
    sd      x24, 192(a0)
    sd      x25, 200(a0)
    sd      x26, 208(a0)
    sd      x27, 216(a0)
    sd      x28, 224(a0)
    sd      x29, 232(a0)
    sd      x30, 240(a0)
    sd      x31, 248(a0)
    sd      t0, 80(a0)                  // a0 as it was
    csrr    t2, sstatus
    csrr    t3, hstatus
    sd      t1, {pc}(a0)
    sd      t2, {sstatus}(a0)
    sd      t3, {hstatus}(a0)
    lla     t0, own_trap
    csrw    stvec, t0
    ld      sp, {host_sp}(a0)
    ld      tp, {host_tp}(a0)
    ld      ra, 0(sp)
    ld      s0, 8(sp)
    ld      s1, 16(sp)
    addi    sp, sp, 32
    ret

    .global guest_enter
guest_enter:                            // a0: GuestRegs
    addi    sp, sp, -32
    sd      ra, 0(sp)
    sd      s0, 8(sp)
    sd      s1, 16(sp)
    sd      sp, {host_sp}(a0)
    sd      tp, {host_tp}(a0)
    lla     t0, guest_exit
    csrw    sscratch, a0
    csrw    stvec, t0
    ld      t1, {pc}(a0)
    ld      t2, {sstatus}(a0)
    ld      t3, {hstatus}(a0)
    csrw    sepc, t1
    csrw    sstatus, t2
    csrw    hstatus, t3
    ld      x1, 8(a0)
    ld      x2, 16(a0)
    ld      x3, 24(a0)
    ld      x4, 32(a0)
    ld      x5, 40(a0)
    ld      x6, 48(a0)
    ld      x7, 56(a0)
    ld      x8, 64(a0)
    ld      x9, 72(a0)
    ld      x11, 88(a0)
    ld      x12, 96(a0)
    ld      x13, 104(a0)
    ld      x14, 112(a0)
    ld      x15, 120(a0)
    ld      x16, 128(a0)
    ld      x17, 136(a0)
    ld      x18, 144(a0)
    ld      x19, 152(a0)
    ld      x20, 160(a0)
    ld      x21, 168(a0)
    ld      x22, 176(a0)
    ld      x23, 184(a0)
    ld      x24, 192(a0)
    ld      x25, 200(a0)
    ld      x26, 208(a0)
    ld      x27, 216(a0)
    ld      x28, 224(a0)
    ld      x29, 232(a0)
    ld      x30, 240(a0)
    ld      x31, 248(a0)
    ld      x10, 80(a0)
    sret
    "#,
    pc = const OFFSET_PC,
    sstatus = const OFFSET_SSTATUS,
    hstatus = const OFFSET_HSTATUS,
    host_sp = const OFFSET_HOST_SP,
    host_tp = const OFFSET_HOST_TP,
);

/// Runs the guest whose VS-mode context this CPU holds, until an exit; `scause` of it.
///
/// # Safety
/// `regs` must belong to the vCPU that is loaded on this CPU and must not be used by anyone else during the call.
#[inline(always)]
pub unsafe fn enter(regs: *mut GuestRegs) -> u64 {
    // SAFETY: guest_enter keeps ra, s0, s1, sp and tp, and gives the stack back as it was; every other register is
    // declared lost. gp is used by nobody.
    unsafe {
        asm!(
            "call guest_enter",
            inout("a0") regs => _,
            out("s2") _, out("s3") _, out("s4") _, out("s5") _, out("s6") _, out("s7") _,
            out("s8") _, out("s9") _, out("s10") _, out("s11") _,
            clobber_abi("C"),
        );
    }
    read!("scause")
}
