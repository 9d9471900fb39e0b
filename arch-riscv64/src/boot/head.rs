//! The first instructions: Linux's RISC-V `Image` header, page tables with address translation off, the jump to virtual
//! addresses.
//!
//! Follows the kernel's boot protocol document (boot-image-header.rst and boot.rst of riscv) as the callee: S-mode,
//! translation off, a0 = hart, a1 = the device tree's physical address, at any 4 KiB aligned place. No identity mapping is
//! ever made: when translation goes on, the fetch of the next instruction faults, and the trap vector is its virtual
//! address (Privileged Architecture, "Supervisor Trap Vector Base Address Register").
//!
//! Other harts come in at `_secondary_start` (by SBI) with a1 = the virtual address of their [`SecondaryStart`].

use core::arch::global_asm;

use crate::mm::{hyp::SATP_SV39, pte};

/// What another hart needs for its first steps; read by assembly.
#[repr(C)]
pub(super) struct SecondaryStart {
    /// Top of its stack.
    pub(super) stack_top: u64,
    /// Its number.
    pub(super) cpu: u64,
}

global_asm!(
    r#"
    .section .text.head, "ax"
    .global _start
_start:
    .option push
    .option norvc
    j       primary_start               // code0
    nop                                 // code1
    .option pop
    .quad   0x200000                    // text_offset: from the start of RAM
    .quad   _image_size                 // zeroed memory included
    .quad   0                           // flags: little endian
    .long   2                           // header version 0.2
    .long   0
    .quad   0
    .ascii  "RISCV\0\0\0"
    .ascii  "RSC\x05"
    .long   0

    .section .text.boot, "ax"

primary_start:
    csrw    sie, zero                   // no interrupts
    mv      s0, a0                      // hart
    mv      s1, a1                      // device tree
    lla     t0, _bss_start
    lla     t1, _bss_end
0:  sd      zero, (t0)
    addi    t0, t0, 8
    bltu    t0, t1, 0b

    // The image at its virtual address: the last slot of the root, the first of the next level, then one entry a page.
    lla     t0, image_level1
    srli    t1, t0, 2                   // physical page number from bit 10 on
    ori     t1, t1, {pointer}
    lla     t2, boot_root
    li      t3, 511 * 8
    add     t2, t2, t3
    sd      t1, (t2)
    lla     t2, image_level0
    srli    t1, t2, 2
    ori     t1, t1, {pointer}
    sd      t1, (t0)

    lla     t0, _start
    lla     t3, _text_end
    lla     t4, _rodata_end
    lla     t5, _end
1:  srli    t1, t0, 2
    li      t6, {text}
    bltu    t0, t3, 2f
    li      t6, {read_only}
    bltu    t0, t4, 2f
    li      t6, {data}
2:  or      t1, t1, t6
    sd      t1, (t2)
    addi    t2, t2, 8
    li      t6, 4096
    add     t0, t0, t6
    bltu    t0, t5, 1b

    lla     t0, boot_root
    srli    t0, t0, 12
    li      t1, {satp_mode}
    or      t0, t0, t1
    sd      t0, boot_satp, t1

    lla     s2, _start                  // where the image really is
    jal     translation_on
    // From here on at virtual addresses.
    lla     sp, boot_stack_top
    mv      tp, zero
    mv      a0, s0
    mv      a1, s1
    mv      a2, s2
    mv      ra, zero
    tail    {primary}

// Turns address translation on and returns to the caller's virtual address. Keeps s registers and a1.
translation_on:
    lla     t0, _start
    ld      t1, image_va
    sub     t1, t1, t0                  // from physical to virtual
    add     ra, ra, t1
    lla     t2, 3f
    add     t2, t2, t1
    csrw    stvec, t2
    ld      t0, boot_satp
    sfence.vma
    csrw    satp, t0
    .balign 4
3:  sfence.vma
    csrr    t1, satp
    bne     t0, t1, 4f
    ret
4:  wfi                                 // a hart without the mode that the first one has
    j       4b

    .balign 8
image_va:
    .quad   _image_start

    .global _secondary_start
    .balign 4
_secondary_start:
    csrw    sie, zero
    jal     translation_on
    ld      sp, 0(a1)                   // stack_top
    ld      a0, 8(a1)                   // cpu
    mv      tp, zero
    mv      ra, zero
    tail    {secondary}

    .section .data.boot_satp, "aw"
    .balign 8
    .global boot_satp
boot_satp:
    .quad   0

    .section .bss.boot_tables, "aw", %nobits
    .balign 4096
    .global boot_root
boot_root:      .skip 4096
image_level1:   .skip 4096
image_level0:   .skip 4096

    .section .bss.boot_stack, "aw", %nobits
    .balign 16
    .skip   131072                      // start-up passes whole domains by value; below is data
boot_stack_top:
    "#,
    pointer = const pte::POINTER,
    text = const pte::TEXT,
    read_only = const pte::READ_ONLY,
    data = const pte::DATA,
    satp_mode = const SATP_SV39,
    primary = sym crate::boot::primary,
    secondary = sym crate::boot::smp::secondary,
);

unsafe extern "C" {
    static _secondary_start: u8;
}

/// Virtual address of another hart's first instruction.
pub(super) fn secondary_entry() -> u64 {
    core::ptr::addr_of!(_secondary_start) as u64
}
