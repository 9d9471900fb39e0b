//! The first instructions: 32-bit code without paging, up to the first Rust function at its virtual address.
//!
//! Entered by three protocols with one machine state (32-bit protected mode, flat segments, paging off): PVH (its ELF note
//! names `pvh_entry`; EBX = start info), Multiboot 1 and 2 (`multiboot_entry`; EAX = magic, EBX = information). Other CPUs
//! come from their INIT and SIPI in real mode at a copy of `trampoline` below 1 MiB.
//!
//! Two root tables: `start_root` also maps one block at its physical address, for the instructions around the switch to
//! paging; `hyp_root` never does, and every CPU is on it before it runs Rust code.

use core::arch::global_asm;

use crate::mm::{layout::IMAGE_SLOTS, layout::IMAGE_VA, pte};

/// What another CPU needs for its first steps; read by assembly. CPUs are started one at a time.
#[repr(C)]
pub(super) struct SecondaryStart {
    /// Top of its stack.
    pub(super) stack_top: core::sync::atomic::AtomicU64,
    /// Its number.
    pub(super) cpu: core::sync::atomic::AtomicU64,
}

/// For the CPU that is being started.
pub(super) static SECONDARY: SecondaryStart = SecondaryStart {
    stack_top: core::sync::atomic::AtomicU64::new(0),
    cpu: core::sync::atomic::AtomicU64::new(0),
};

/// Where the image is loaded (`targets/x86_64.ld`).
pub(crate) const LOAD: u64 = 0x20_0000;
/// From physical to virtual addresses of the image.
const DELTA: u64 = IMAGE_VA - LOAD;

/// CR4: physical address extension. No global pages: a load of CR3 drops all translations of a PV guest.
const CR4: u32 = 1 << 5;
/// EFER: long mode, no-execute pages.
const EFER: u32 = 1 << 8 | 1 << 11;
/// CR0: protection, monitor coprocessor, extension type, native FPU errors, write protection for the hypervisor too,
/// paging.
const CR0: u32 = 1 << 31 | 1 << 16 | 1 << 5 | 1 << 4 | 1 << 1 | 1;

global_asm!(
    r#"
    .set DELTA, {delta}

    // ---- headers ---------------------------------------------------------------------------------------------
    .section .text.head, "ax"
    .balign 8
multiboot1_header:
    .long   0x1badb002
    .long   0x00010003                  // modules on page borders, memory map, addresses below
    .long   -(0x1badb002 + 0x00010003)
    .long   multiboot1_header - DELTA   // header_addr
    .long   _load_pa                    // load_addr
    .long   _file_end_pa                // load_end_addr
    .long   _end_pa                     // bss_end_addr
    .long   multiboot_entry - DELTA     // entry_addr

    .balign 8
multiboot2_header:
    .long   0xe85250d6
    .long   0                           // i386 protected mode
    .long   multiboot2_end - multiboot2_header
    .long   -(0xe85250d6 + (multiboot2_end - multiboot2_header))
    .word   2, 0                        // addresses, so that a loader needs no ELF headers
    .long   24
    .long   multiboot2_header - DELTA   // header_addr
    .long   _load_pa                    // load_addr
    .long   _file_end_pa                // load_end_addr
    .long   _end_pa                     // bss_end_addr
    .word   6, 0                        // modules on page borders
    .long   8
    .word   3, 0                        // entry address
    .long   12
    .long   multiboot_entry - DELTA
    .balign 8
    .word   0, 0                        // end of tags
    .long   8
multiboot2_end:

    .section .note.Xen, "a", @note
    .balign 4
    .long   4, 8, 18                    // XEN_ELFNOTE_PHYS32_ENTRY
    .asciz  "Xen"
    .quad   pvh_entry - DELTA

    // ---- the boot CPU ----------------------------------------------------------------------------------------
    .section .text.boot, "ax"
    .code32
pvh_entry:
    movl    $0x336ec578, %eax           // the start info's magic, as if a loader had put it there
    .global multiboot_entry
multiboot_entry:
    cli
    cld
    movl    %eax, %ebp                  // magic
    movl    %ebx, %esi                  // information
    movl    $_bss_start_pa, %edi
    movl    $_bss_words, %ecx
    xorl    %eax, %eax
    rep stosl

    movl    $0x80000000, %eax
    cpuid
    cmpl    $0x80000001, %eax
    jb      no_long_mode
    movl    $0x80000001, %eax
    cpuid
    andl    $(1 << 29 | 1 << 20), %edx  // long mode and no-execute pages
    cmpl    $(1 << 29 | 1 << 20), %edx
    jne     no_long_mode

    // The image at its virtual address, from both roots.
    movl    $(image_level1 - DELTA + {pointer}), %eax
    movl    %eax, start_root - DELTA + {slot0} * 8
    movl    %eax, hyp_root - DELTA + {slot0} * 8
    movl    $(image_level2 - DELTA + {pointer}), image_level1 - DELTA + {slot1} * 8
    movl    $(image_level3 - DELTA + {pointer}), image_level2 - DELTA + {slot2} * 8
    movl    $(image_level3 - DELTA), %edi
    movl    $_load_pa, %eax
0:  movl    %eax, %ecx
    xorl    %edx, %edx                  // upper half of the entry
    cmpl    $_text_end_pa, %eax
    jb      1f
    movl    $0x80000000, %edx           // no-execute
    cmpl    $_rodata_end_pa, %eax
    jb      1f
    orl     ${data}, %ecx
1:  orl     ${text}, %ecx
    movl    %ecx, (%edi)
    movl    %edx, 4(%edi)
    addl    $8, %edi
    addl    $4096, %eax
    cmpl    $_end_pa, %eax
    jb      0b

    // One block at its physical address.
    movl    $(identity_level1 - DELTA + {pointer}), start_root - DELTA
    movl    $(identity_level2 - DELTA + {pointer}), identity_level1 - DELTA
    movl    $(_load_pa + {block_text}), identity_level2 - DELTA + 8

    xorl    %edi, %edi                  // the boot CPU

    // ---- every CPU: long mode. EDI tells whether it is the boot CPU (0). ---------------------------------------
long_mode:
    movl    ${cr4}, %eax
    movl    %eax, %cr4
    movl    $(start_root - DELTA), %eax
    movl    %eax, %cr3
    movl    $0xc0000080, %ecx           // EFER
    rdmsr
    orl     ${efer}, %eax
    wrmsr
    movl    ${cr0}, %eax
    movl    %eax, %cr0
    lgdtl   boot_gdtr - DELTA
    ljmpl   $8, $(2f - DELTA)

    .code64
2:  movabsq $3f, %rax
    jmpq    *%rax
3:  // From here on at virtual addresses.
    movl    $16, %eax
    movl    %eax, %ds
    movl    %eax, %es
    movl    %eax, %ss
    xorl    %eax, %eax
    movl    %eax, %fs
    movl    %eax, %gs
    movl    $(hyp_root - DELTA), %eax
    movq    %rax, %cr3                  // the physical address is not mapped any more
    testl   %edi, %edi
    jnz     4f
    leaq    boot_stack_top(%rip), %rsp
    movl    %ebp, %edi                  // magic
    movl    %esi, %esi                  // information
    movl    $_load_pa, %edx
    callq   {primary}
    ud2
4:  movq    {secondary_start}(%rip), %rsp
    movq    {secondary_start}+8(%rip), %rdi
    callq   {secondary}
    ud2

    // ---- the other CPUs --------------------------------------------------------------------------------------
    .code32
secondary_protected:
    movl    $16, %eax
    movl    %eax, %ds
    movl    $1, %edi
    jmp     long_mode

no_long_mode:                           // said on the first serial line, for nothing else is known yet
    movl    $(no_long_mode_text - DELTA), %esi
5:  lodsb
    testb   %al, %al
    jz      6f
    movw    $0x3f8, %dx
    outb    %al, %dx
    jmp     5b
6:  hlt
    jmp     6b
    .code64

    .section .rodata.boot, "a"
no_long_mode_text:
    .asciz  "(XEN) Xenolith needs a 64-bit CPU with no-execute pages\r\n"
    .balign 8
boot_gdt:
    .quad   0
    .quad   0x00af9b000000ffff          // 8: 64-bit code
    .quad   0x00cf93000000ffff          // 16: data
    .quad   0x00cf9b000000ffff          // 24: 32-bit code
boot_gdtr:
    .word   31
    .long   boot_gdt - DELTA

    .code16
    .global trampoline
trampoline:                             // copied to a page below 1 MiB; CS points to it
    cli
    movw    %cs, %ax
    movw    %ax, %ds
    lgdtl   trampoline_gdtr - trampoline
    movl    %cr0, %eax
    orl     $1, %eax
    movl    %eax, %cr0
    ljmpl   $24, $(secondary_protected - DELTA)
trampoline_gdtr:
    .word   31
    .long   boot_gdt - DELTA
    .global trampoline_end
trampoline_end:
    .code64

    .section .bss.boot_tables, "aw", @nobits
    .balign 4096
    .global hyp_root
hyp_root:           .skip 4096
start_root:         .skip 4096
image_level1:       .skip 4096
image_level2:       .skip 4096
image_level3:       .skip 4096
identity_level1:    .skip 4096
identity_level2:    .skip 4096

    .section .bss.boot_stack, "aw", @nobits
    .balign 16
    .skip   131072              // the xz decoder alone has 30 KiB of state
boot_stack_top:
    .text
    "#,
    delta = const DELTA,
    pointer = const pte::POINTER,
    slot0 = const IMAGE_SLOTS[0],
    slot1 = const IMAGE_SLOTS[1],
    slot2 = const IMAGE_SLOTS[2],
    text = const pte::TEXT as u32,
    data = const pte::DATA as u32,
    block_text = const pte::BLOCK_TEXT,
    cr4 = const CR4,
    efer = const EFER,
    cr0 = const CR0,
    primary = sym crate::boot::primary,
    secondary = sym crate::boot::smp::secondary,
    secondary_start = sym SECONDARY,
    options(att_syntax),
);

unsafe extern "C" {
    static trampoline: u8;
    static trampoline_end: u8;
}

/// The real-mode code of the other CPUs, to be copied to a page below 1 MiB.
pub(super) fn trampoline_code() -> &'static [u8] {
    let start = core::ptr::addr_of!(trampoline);
    let size = core::ptr::addr_of!(trampoline_end) as usize - start as usize;
    // SAFETY: the bytes between the two symbols, constants of the image.
    unsafe { core::slice::from_raw_parts(start, size) }
}

const _: () = assert!(
    LOAD >> 21 == 1 && pte::BLOCK_TEXT >> 32 == 0,
    "the block at its physical address is the second of the first gigabyte"
);
