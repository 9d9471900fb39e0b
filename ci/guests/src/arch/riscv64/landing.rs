//! How a landing keeps this machine's registers.

use core::arch::global_asm;

global_asm!(
    r#"
    .global guest_attempt
    .global guest_escape
    // Calls a1(a2) and returns 1; returns 0 instead when guest_escape is called meanwhile. a0: the landing, for s0 to s11, ra and sp.
guest_attempt:
    .irp    n, 0,1,2,3,4,5,6,7,8,9,10,11
    sd      s\n, 8*\n(a0)
    .endr
    sd      ra, 96(a0)
    sd      sp, 104(a0)
    mv      s0, a0
    mv      a0, a2
    jalr    a1
    mv      a0, s0
    li      a1, 1
    j       1f
guest_escape:
    li      a1, 0
1:  .irp    n, 0,1,2,3,4,5,6,7,8,9,10,11
    ld      s\n, 8*\n(a0)
    .endr
    ld      ra, 96(a0)
    ld      sp, 104(a0)
    mv      a0, a1
    ret
"#
);
