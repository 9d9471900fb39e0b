//! The trap vector. Interrupts are masked while the hypervisor runs, so what comes here is a fault of its own.
//!
//! It may be that of a stack that is full, so it is told of on a stack that is used for nothing else. The first CPU that comes
//! here has it for ever; others wait for the end, and a fault while the first is told of powers the machine off at once.

use core::arch::global_asm;

global_asm!(
    r#"
    .section .text.vectors, "ax"
    .balign 4
    .global own_trap
own_trap:
    csrw    sscratch, sp                // what it held for an entry is not needed any more
    lla     sp, fault_taken
    .option push
    .option arch, +a
    amoswap.w.aq sp, sp, (sp)           // any value but 0 will do
    .option pop
    bnez    sp, 1f
    sd      tp, fault_taker, sp
    lla     sp, fault_stack_top - 256
    sd      x1, 0(sp)
    csrr    x1, sscratch
    sd      x1, 8(sp)                   // sp as it was
    sd      x3, 16(sp)
    sd      x4, 24(sp)
    sd      x5, 32(sp)
    sd      x6, 40(sp)
    sd      x7, 48(sp)
    sd      x8, 56(sp)
    sd      x9, 64(sp)
    sd      x10, 72(sp)
    sd      x11, 80(sp)
    sd      x12, 88(sp)
    sd      x13, 96(sp)
    sd      x14, 104(sp)
    sd      x15, 112(sp)
    sd      x16, 120(sp)
    sd      x17, 128(sp)
    sd      x18, 136(sp)
    sd      x19, 144(sp)
    sd      x20, 152(sp)
    sd      x21, 160(sp)
    sd      x22, 168(sp)
    sd      x23, 176(sp)
    sd      x24, 184(sp)
    sd      x25, 192(sp)
    sd      x26, 200(sp)
    sd      x27, 208(sp)
    sd      x28, 216(sp)
    sd      x29, 224(sp)
    sd      x30, 232(sp)
    sd      x31, 240(sp)
    mv      a0, sp
    tail    {own_fault}

1:  ld      t0, fault_taker
    beq     t0, tp, 3f
2:  wfi
    j       2b
3:  li      a7, {system_reset}
    li      a6, 0
    li      a0, 0                       // power off
    li      a1, 1                       // as the system failed
    ecall
    j       2b

    .section .bss.fault, "aw", %nobits
    .balign 16
    .skip   16384
fault_stack_top:
fault_taker:    .skip 8                 // its tp
fault_taken:    .skip 8
    "#,
    system_reset = const 0x5352_5354,   // SBI, "System Reset Extension"
    own_fault = sym crate::cpu::fault::own_fault,
);

unsafe extern "C" {
    static own_trap: u8;
}

/// Points this hart at the vector.
pub fn install() {
    super::regs::write!("stvec", core::ptr::addr_of!(own_trap) as u64);
}
