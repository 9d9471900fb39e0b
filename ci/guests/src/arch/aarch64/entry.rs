//! From the loader's jump to the first Rust function: Linux `Image` header, self-relocation,
//! zeroed .bss, a stack per CPU, and the exception vectors.
//! Linux `Documentation/arch/arm64/booting` gives the header and the state at entry.

use core::arch::global_asm;
use core::mem::offset_of;

use super::cpu::{MAX_CPUS, PerCpu, STACK_BYTES};

/// Registers of the interrupted code, as the synchronous vector saves them.
#[repr(C)]
pub(super) struct Frame {
    /// x0 to x30.
    pub x: [u64; 31],
    /// Where the exception returns to.
    pub elr: u64,
    /// PSTATE to return with.
    pub spsr: u64,
    pad: u64,
}

#[repr(C, align(16))]
struct Stacks([[u8; STACK_BYTES]; MAX_CPUS]);

#[unsafe(no_mangle)]
static mut GUEST_STACKS: Stacks = Stacks([[0; STACK_BYTES]; MAX_CPUS]);

global_asm!(
    r#"
    .section .head, "ax"
    .global _head
_head:
    b       _start
    .long   0
    .quad   0                       // text offset from a 2 MiB boundary
    .quad   _image_size
    .quad   0xa                     // little endian, 4 KiB pages, anywhere in RAM
    .quad   0, 0, 0
    .ascii  "ARM\x64"
    .long   0

_start:
    msr     daifset, #0xf
    mov     x19, x0                 // device tree
    adrp    x0, _head
    adrp    x1, _rela_start
    add     x1, x1, :lo12:_rela_start
    adrp    x2, _rela_end
    add     x2, x2, :lo12:_rela_end
1:  cmp     x1, x2                  // all entries are R_AARCH64_RELATIVE
    b.hs    2f
    ldp     x3, x4, [x1], #16
    ldr     x5, [x1], #8
    add     x5, x5, x0
    str     x5, [x0, x3]
    b       1b
2:  adrp    x1, _bss_start
    add     x1, x1, :lo12:_bss_start
    adrp    x2, _bss_end
    add     x2, x2, :lo12:_bss_end
3:  cmp     x1, x2
    b.hs    4f
    stp     xzr, xzr, [x1], #16
    b       3b
4:  // What was written with the MMU off must not be hidden by stale cache lines later.
    adrp    x1, _head
5:  dc      civac, x1
    add     x1, x1, #64
    cmp     x1, x2
    b.lo    5b
    dsb     sy
    mov     x0, #0
    bl      cpu_prepare
    mov     x0, x19
    bl      guest_primary
6:  wfi
    b       6b

    // CPU_ON lands here with the CPU's index in x0.
    .text
    .global guest_secondary_entry
guest_secondary_entry:
    msr     daifset, #0xf
    mov     x19, x0
    bl      cpu_prepare
    mov     x0, x19
    bl      guest_secondary
7:  wfi
    b       7b

    // x0 = CPU index: stack, per-CPU pointer, vectors.
cpu_prepare:
    msr     spsel, #1
    adrp    x1, GUEST_STACKS
    add     x1, x1, :lo12:GUEST_STACKS
    add     x2, x0, #1
    mov     x3, #{stack}
    madd    x1, x2, x3, x1
    mov     sp, x1
    adrp    x1, GUEST_CPUS
    add     x1, x1, :lo12:GUEST_CPUS
    mov     x3, #{percpu}
    madd    x1, x0, x3, x1
    msr     tpidr_el1, x1
    adrp    x1, guest_vectors
    add     x1, x1, :lo12:guest_vectors
    msr     vbar_el1, x1
    isb
    ret

    .macro  save_all
    sub     sp, sp, #272
    stp     x0, x1, [sp, #0]
    mrs     x0, cntvct_el0
    mrs     x1, tpidr_el1
    str     x0, [x1, #{stamp}]
    stp     x2, x3, [sp, #16]
    stp     x4, x5, [sp, #32]
    stp     x6, x7, [sp, #48]
    stp     x8, x9, [sp, #64]
    stp     x10, x11, [sp, #80]
    stp     x12, x13, [sp, #96]
    stp     x14, x15, [sp, #112]
    stp     x16, x17, [sp, #128]
    stp     x18, x19, [sp, #144]
    stp     x20, x21, [sp, #160]
    stp     x22, x23, [sp, #176]
    stp     x24, x25, [sp, #192]
    stp     x26, x27, [sp, #208]
    stp     x28, x29, [sp, #224]
    mrs     x1, elr_el1
    mrs     x2, spsr_el1
    stp     x30, x1, [sp, #240]
    str     x2, [sp, #256]
    .endm

    .macro  restore_all
    ldp     x30, x1, [sp, #240]
    ldr     x2, [sp, #256]
    msr     elr_el1, x1
    msr     spsr_el1, x2
    ldp     x0, x1, [sp, #0]
    ldp     x2, x3, [sp, #16]
    ldp     x4, x5, [sp, #32]
    ldp     x6, x7, [sp, #48]
    ldp     x8, x9, [sp, #64]
    ldp     x10, x11, [sp, #80]
    ldp     x12, x13, [sp, #96]
    ldp     x14, x15, [sp, #112]
    ldp     x16, x17, [sp, #128]
    ldp     x18, x19, [sp, #144]
    ldp     x20, x21, [sp, #160]
    ldp     x22, x23, [sp, #176]
    ldp     x24, x25, [sp, #192]
    ldp     x26, x27, [sp, #208]
    ldp     x28, x29, [sp, #224]
    add     sp, sp, #272
    eret
    .endm

    // kind: 0 synchronous, 3 SError, 4 anything that must not happen
    .macro  vector kind
    .balign 128
    save_all
    mov     x0, sp
    mov     x1, #\kind
    bl      guest_exception
    b       guest_return
    .endm

    .macro  bad
    .balign 128
    mov     x1, #4
    mov     x0, sp
    bl      guest_exception
    .endm

    .balign 2048
guest_vectors:
    .rept   4
    bad
    .endr
    vector  0
    .balign 128
    b       guest_irq
    bad
    vector  3
    .rept   8
    bad
    .endr

guest_return:
    restore_all

    // The counter is read first: the benchmarks time "to handler" by it. IRQs are never nested,
    // so ELR and SPSR stay where they are.
guest_irq:
    sub     sp, sp, #176
    stp     x0, x1, [sp]
    mrs     x0, cntvct_el0
    mrs     x1, tpidr_el1
    str     x0, [x1, #{stamp}]
    stp     x2, x3, [sp, #16]
    stp     x4, x5, [sp, #32]
    stp     x6, x7, [sp, #48]
    stp     x8, x9, [sp, #64]
    stp     x10, x11, [sp, #80]
    stp     x12, x13, [sp, #96]
    stp     x14, x15, [sp, #112]
    stp     x16, x17, [sp, #128]
    stp     x18, x29, [sp, #144]
    str     x30, [sp, #160]
    bl      guest_irq_rust
    ldp     x0, x1, [sp]
    ldp     x2, x3, [sp, #16]
    ldp     x4, x5, [sp, #32]
    ldp     x6, x7, [sp, #48]
    ldp     x8, x9, [sp, #64]
    ldp     x10, x11, [sp, #80]
    ldp     x12, x13, [sp, #96]
    ldp     x14, x15, [sp, #112]
    ldp     x16, x17, [sp, #128]
    ldp     x18, x29, [sp, #144]
    ldr     x30, [sp, #160]
    add     sp, sp, #176
    eret
"#,
    stack = const STACK_BYTES,
    percpu = const size_of::<PerCpu>(),
    stamp = const offset_of!(PerCpu, stamp),
);
