//! The first instructions: Linux `Image` header, page tables with the MMU off, the jump to virtual addresses.
//!
//! Follows the kernel's boot protocol document (booting.rst of arm64) as the callee, and the Arm ARM (DDI 0487) D8 for
//! the tables. Entered at EL2 with MMU off and the device tree's physical address in x0, at any 4 KiB aligned place.
//!
//! Secondary CPUs come in at `_secondary_start` (by PSCI) with x0 = the virtual address of their [`SecondaryStart`].

use core::arch::global_asm;

use crate::mm::layout::{IMAGE_VA, L0_IMAGE_SLOT};

/// What a secondary CPU needs for its first steps; read by assembly.
#[repr(C)]
pub(super) struct SecondaryStart {
    /// Top of its stack.
    pub(super) stack_top: u64,
    /// Its number.
    pub(super) cpu: u64,
}

/// Memory attributes, by index: 0 device nGnRE, 1 normal write-back, 2 normal non-cacheable.
const MAIR: u64 = 0x0000_0000_0044_ff04;

/// TCR_EL2 without the physical size: 48-bit addresses, 4 KiB granule, walks inner-shareable write-back, RES1 bits.
const TCR: u64 = (1 << 31) | (1 << 23) | (3 << 12) | (1 << 10) | (1 << 8) | 16;

/// SCTLR_EL2: RES1 bits, MMU, data cache, stack alignment check, instruction cache, writable implies never executable.
const SCTLR: u64 = 0x30c5_0830 | 1 | (1 << 2) | (1 << 3) | (1 << 12) | (1 << 19);

// Descriptor bits of stage 1 at EL2: AP[1] is RES1, inner shareable, access flag set.
const PAGE_NORMAL: u64 = 0b11 | (1 << 2) | (1 << 6) | (3 << 8) | (1 << 10);
const READ_ONLY: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 54;
const PAGE_TEXT: u64 = PAGE_NORMAL | READ_ONLY;
const PAGE_RODATA: u64 = PAGE_NORMAL | READ_ONLY | NO_EXECUTE;
const PAGE_DATA: u64 = PAGE_NORMAL | NO_EXECUTE;
/// A 2 MiB block for the few instructions that run at their physical address.
const BLOCK_TEXT: u64 = (PAGE_TEXT & !0b10) | 0b01;

global_asm!(
    r#"
    .section .text.head, "ax"
    .global _start
_start:
    b       primary_start               // code0
    .long   0                           // code1
    .quad   0                           // text_offset: from the 2 MiB aligned base
    .quad   _image_size                    // image_size, zeroed memory included
    .quad   0xa                         // flags: little endian, 4 KiB pages, anywhere in memory
    .quad   0
    .quad   0
    .quad   0
    .ascii  "ARM\x64"
    .long   0

    .section .text.boot, "ax"

primary_start:
    msr     daifset, #0xf
    mov     x19, x0                     // device tree
    mrs     x1, CurrentEL
    cmp     x1, #8                      // EL2
    b.ne    stop                        // nothing can be printed yet: no device is known

    // Tables are written with the MMU off, straight to memory: drop what caches may hold of them first.
    adrp    x0, boot_l0
    adrp    x1, _end
0:  dc      ivac, x0
    add     x0, x0, #16                 // no cache line is shorter
    cmp     x0, x1
    b.lo    0b
    dsb     sy
    adrp    x0, boot_l0
1:  stp     xzr, xzr, [x0], #16
    cmp     x0, x1
    b.lo    1b

    // The image at its virtual address: level 0 -> level 1 -> level 2 -> level 3.
    adrp    x0, boot_l0
    adrp    x1, boot_l1
    adrp    x2, boot_l2
    adrp    x3, boot_l3
    orr     x4, x1, #3
    str     x4, [x0, #{image_slot} * 8]
    orr     x4, x2, #3
    str     x4, [x1]
    orr     x4, x3, #3
    str     x4, [x2]

    // Level 3: one entry a page, permission by section.
    adrp    x4, _image_start
    adrp    x5, _text_end
    adrp    x6, _rodata_end
    adrp    x7, _end
    ldr     x8, ={page_text}
    ldr     x9, ={page_rodata}
    ldr     x10, ={page_data}
2:  cmp     x4, x6
    csel    x11, x9, x10, lo
    cmp     x4, x5
    csel    x11, x8, x11, lo
    orr     x11, x11, x4
    str     x11, [x3], #8
    add     x4, x4, #4096
    cmp     x4, x7
    b.lo    2b

    // The same code at its physical address, for the moment in which the MMU goes on.
    adrp    x0, boot_l0
    adrp    x1, identity_l1
    adrp    x2, identity_l2
    adr     x4, mmu_on
    ubfx    x5, x4, #39, #9
    orr     x6, x1, #3
    str     x6, [x0, x5, lsl #3]
    ubfx    x5, x4, #30, #9
    orr     x6, x2, #3
    str     x6, [x1, x5, lsl #3]
    ubfx    x5, x4, #21, #9
    lsr     x6, x4, #21
    lsl     x6, x6, #21
    ldr     x7, ={block_text}
    orr     x6, x6, x7
    str     x6, [x2, x5, lsl #3]
    dsb     sy

    adr     x21, _start                 // where the image really is
    bl      mmu_on
    // From here on at virtual addresses.
    adrp    x0, boot_stack_top
    add     x0, x0, :lo12:boot_stack_top
    mov     sp, x0
    adrp    x0, _bss_start
    add     x0, x0, :lo12:_bss_start
    adrp    x1, _bss_end
    add     x1, x1, :lo12:_bss_end
3:  cmp     x0, x1
    b.hs    4f
    stp     xzr, xzr, [x0], #16
    b       3b
4:  mov     x0, x19
    mov     x1, x21
    mov     x29, xzr
    mov     x30, xzr
    b       {primary}

// Turns the MMU on and returns to the caller's virtual address. Keeps x19 and up.
mmu_on:
    adr     x2, _start
    sub     x30, x30, x2                // the caller's place in the image
    ldr     x2, =_start
    add     x30, x30, x2
    adrp    x0, boot_l0
    msr     ttbr0_el2, x0
    ldr     x0, ={mair}
    msr     mair_el2, x0
    ldr     x0, ={tcr}
    mrs     x1, id_aa64mmfr0_el1
    and     x1, x1, #0xf                // physical address size
    cmp     x1, #5
    mov     x2, #5                      // the 4 KiB granule's tables here hold 48 bits
    csel    x1, x1, x2, lo
    orr     x0, x0, x1, lsl #16
    msr     tcr_el2, x0
    isb
    tlbi    alle2
    ic      iallu
    dsb     sy
    isb
    ldr     x0, ={sctlr}
    msr     sctlr_el2, x0
    isb
    ret

    .global _secondary_start
_secondary_start:
    msr     daifset, #0xf
    mov     x19, x0
    mrs     x1, CurrentEL
    cmp     x1, #8
    b.ne    stop
    bl      mmu_on
    ldr     x0, [x19]                   // stack_top
    mov     sp, x0
    ldr     x0, [x19, #8]               // cpu
    mov     x29, xzr
    mov     x30, xzr
    b       {secondary}

stop:
    wfe
    b       stop
    .ltorg

    .section .boot_tables, "aw", %nobits
    .balign 4096
    .global boot_l0
boot_l0:        .skip 4096
boot_l1:        .skip 4096
boot_l2:        .skip 4096
boot_l3:        .skip 4096
    .global identity_l1
identity_l1:    .skip 4096
identity_l2:    .skip 4096

    .section .bss.boot_stack, "aw", %nobits
    .balign 16
    .skip   131072                      // start-up passes whole domains by value; below is data
    .global boot_stack_top
boot_stack_top:
    "#,
    image_slot = const L0_IMAGE_SLOT,
    page_text = const PAGE_TEXT,
    page_rodata = const PAGE_RODATA,
    page_data = const PAGE_DATA,
    block_text = const BLOCK_TEXT,
    mair = const MAIR,
    tcr = const TCR,
    sctlr = const SCTLR,
    primary = sym crate::boot::primary,
    secondary = sym crate::boot::smp::secondary,
);

unsafe extern "C" {
    static _secondary_start: u8;
}

/// Virtual address of a secondary CPU's first instruction.
pub(super) fn secondary_entry() -> u64 {
    core::ptr::addr_of!(_secondary_start) as u64
}

const _: () = assert!(IMAGE_VA >> 39 == L0_IMAGE_SLOT as u64);
