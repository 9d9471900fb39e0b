//! From the loader's jump to the first Rust function: Linux `Image` header, self-relocation, zeroed .bss, a stack per CPU,
//! and the vectors. Linux `Documentation/riscv/boot-image-header.rst` gives the header, `boot.rst` the state at entry.

use core::arch::global_asm;
use core::mem::offset_of;

use super::cpu::{MAX_CPUS, PerCpu, STACK_BYTES};

/// Registers of the interrupted code, as the vector of exceptions saves them.
#[repr(C)]
pub(super) struct Frame {
    /// Where the exception returns to; x0 has no value to keep.
    pub pc: u64,
    /// x1 to x31.
    pub x: [u64; 31],
}

#[repr(C, align(16))]
struct Stacks([[u8; STACK_BYTES]; MAX_CPUS]);

#[unsafe(no_mangle)]
static mut GUEST_STACKS: Stacks = Stacks([[0; STACK_BYTES]; MAX_CPUS]);

global_asm!(
    r#"
    .section .head, "ax"
    .option push
    .option norvc
    .global _head
_head:
    j       _start
    .word   0
    .dword  0x200000                // text offset from the start of RAM
    .dword  _image_size
    .dword  0                       // little endian
    .word   2                       // version 0.2
    .word   0
    .dword  0
    .ascii  "RISCV\0\0\0"
    .ascii  "RSC\x05"
    .word   0
    .option pop

_start:
    csrw    sie, zero
    csrci   sstatus, 2
    csrw    satp, zero
    mv      s0, a0                  // hart id
    mv      s1, a1                  // device tree
    lla     a0, _head
    lla     a1, _rela_start
    lla     a2, _rela_end
1:  bgeu    a1, a2, 2f              // all entries are R_RISCV_RELATIVE
    ld      a3, 0(a1)
    ld      a4, 16(a1)
    add     a3, a3, a0
    add     a4, a4, a0
    sd      a4, 0(a3)
    addi    a1, a1, 24
    j       1b
2:  lla     a1, _bss_start
    lla     a2, _bss_end
3:  bgeu    a1, a2, 4f
    sd      zero, 0(a1)
    addi    a1, a1, 8
    j       3b
4:  fence.i
    li      a0, 0
    call    cpu_prepare
    mv      a0, s0
    mv      a1, s1
    call    guest_primary
5:  wfi
    j       5b

    // A started hart lands here with its own id in a0 and the CPU's index in a1.
    .text
    .balign 4
    .global guest_secondary_entry
guest_secondary_entry:
    csrw    sie, zero
    csrci   sstatus, 2
    csrw    satp, zero
    mv      a0, a1
    mv      s0, a1
    call    cpu_prepare
    mv      a0, s0
    call    guest_secondary
6:  wfi
    j       6b

    // a0 = CPU index: stack, per-CPU pointer, vectors.
    .option push
    .option arch, +m
cpu_prepare:
    lla     sp, GUEST_STACKS
    addi    a1, a0, 1
    li      a2, {stack}
    mul     a1, a1, a2
    add     sp, sp, a1
    lla     tp, GUEST_CPUS
    li      a2, {percpu}
    mul     a1, a0, a2
    add     tp, tp, a1
    lla     a1, guest_vector
    csrw    stvec, a1
    csrw    sscratch, zero
    ret
    .option pop

    // A vector for each interrupt, for a case that sets them.
    .balign 256
    .option push
    .option norvc
    .global guest_vectors
guest_vectors:
    .rept   16
    j       guest_vector
    .endr
    .option pop

    // The time is read first: the benchmarks time "to handler" by it. Interrupts are never nested,
    // so sepc and sstatus stay where they are.
    .balign 4
guest_vector:
    addi    sp, sp, -256
    sd      t0, 40(sp)
    rdtime  t0
    sd      t0, {stamp}(tp)
    csrr    t0, scause
    bltz    t0, guest_irq
    sd      x1, 8(sp)
    sd      x3, 24(sp)
    sd      x4, 32(sp)
    addi    x5, sp, 256
    sd      x5, 16(sp)
    .irp    n, 6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
    sd      x\n, 8*\n(sp)
    .endr
    csrr    a0, sepc
    sd      a0, 0(sp)
    mv      a0, sp
    call    guest_exception_rust
    ld      a0, 0(sp)
    csrw    sepc, a0
    .irp    n, 1,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
    ld      x\n, 8*\n(sp)
    .endr
    addi    sp, sp, 256
    sret

guest_irq:
    sd      ra, 8(sp)
    sd      t1, 48(sp)
    sd      t2, 56(sp)
    sd      a0, 80(sp)
    sd      a1, 88(sp)
    sd      a2, 96(sp)
    sd      a3, 104(sp)
    sd      a4, 112(sp)
    sd      a5, 120(sp)
    sd      a6, 128(sp)
    sd      a7, 136(sp)
    sd      t3, 224(sp)
    sd      t4, 232(sp)
    sd      t5, 240(sp)
    sd      t6, 248(sp)
    mv      a0, t0
    call    guest_irq_rust
    ld      ra, 8(sp)
    ld      t0, 40(sp)
    ld      t1, 48(sp)
    ld      t2, 56(sp)
    ld      a0, 80(sp)
    ld      a1, 88(sp)
    ld      a2, 96(sp)
    ld      a3, 104(sp)
    ld      a4, 112(sp)
    ld      a5, 120(sp)
    ld      a6, 128(sp)
    ld      a7, 136(sp)
    ld      t3, 224(sp)
    ld      t4, 232(sp)
    ld      t5, 240(sp)
    ld      t6, 248(sp)
    addi    sp, sp, 256
    sret
"#,
    stack = const STACK_BYTES,
    percpu = const size_of::<PerCpu>(),
    stamp = const offset_of!(PerCpu, stamp),
);
