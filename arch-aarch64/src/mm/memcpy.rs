//! `memcpy` for code that the compiler makes: it calls it for every aggregate above 32 bytes, since the target's strict
//! alignment lets it unroll little.
//!
//! Before the MMU is on memory is Device memory, where accesses must be aligned; from then on all that is copied is normal
//! memory, where they need not be. SCTLR_EL2.M tells which it is. Overrides the weak symbol of `compiler_builtins`.

use core::arch::global_asm;

global_asm!(
    r#"
    .section .text.memcpy, "ax"
    .balign 16
    .global memcpy
    .type memcpy, %function
memcpy:                                 // x0: to, x1: from, x2: bytes; gives x0
    orr     x3, x0, x1
    mov     x4, x0
    tst     x3, #7
    b.ne    5f
1:  subs    x2, x2, #16
    b.lo    3f
2:  ldp     x5, x6, [x1], #16
    stp     x5, x6, [x4], #16
    subs    x2, x2, #16
    b.hs    2b
3:  tbz     x2, #3, 4f                  // the low four bits are what is left
    ldr     x5, [x1], #8
    str     x5, [x4], #8
4:  ands    x2, x2, #7
    b.ne    6f
    ret
5:  mrs     x3, sctlr_el2
    tbnz    x3, #0, 1b                  // the MMU is on: no access needs to be aligned
    cbz     x2, 7f
6:  ldrb    w5, [x1], #1
    strb    w5, [x4], #1
    subs    x2, x2, #1
    b.ne    6b
7:  ret
    .size memcpy, . - memcpy
    "#
);
