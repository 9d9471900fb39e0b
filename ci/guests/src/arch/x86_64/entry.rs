//! From the PVH entry (32-bit protected mode, paging off, start info in `ebx`) to the first Rust function in long
//! mode, the same way for CPUs that come up by SIPI, and the way of a vCPU that starts in long mode.
//! `docs/misc/pvh.pandoc` gives the state at entry; the tables made here map the first 4 GiB one to one.

use core::arch::global_asm;

use super::cpu::{MAX_CPUS, STACK_BYTES};

#[repr(C, align(16))]
struct Stacks([[u8; STACK_BYTES]; MAX_CPUS]);

#[unsafe(no_mangle)]
static mut GUEST_STACKS: Stacks = Stacks([[0; STACK_BYTES]; MAX_CPUS]);

global_asm!(
    r#"
    .section .note.Xen, "a", @note
    .balign 4
    .long   4, 4, 18                // XEN_ELFNOTE_PHYS32_ENTRY
    .asciz  "Xen"
    .long   guest_entry32

    .section .head, "ax"
    .code32
    .global guest_entry32
guest_entry32:
    cli
    cld
    movl    %ebx, GUEST_START_INFO
    xorl    %ebp, %ebp              // CPU 0
    // One table each of the two upper levels, four of the third; their upper halves are zero already.
    movl    $GUEST_PDPT + 3, GUEST_PML4
    movl    $GUEST_PDPT, %edi
    movl    $GUEST_PDS + 3, %eax
    movl    $4, %ecx
1:  movl    %eax, (%edi)
    addl    $4096, %eax
    addl    $8, %edi
    loop    1b
    movl    $GUEST_PDS, %edi
    movl    $0x83, %eax             // present, writable, 2 MiB
    movl    $4 * 512, %ecx
2:  movl    %eax, (%edi)
    addl    $0x200000, %eax
    addl    $8, %edi
    loop    2b

    // ebp: the CPU's index.
guest_long_mode:
    leal    1(%ebp), %eax
    imull   ${stack}, %eax
    leal    GUEST_STACKS(%eax), %esp
    movl    $0x20, %eax             // CR4.PAE
    movl    %eax, %cr4
    movl    $GUEST_PML4, %eax
    movl    %eax, %cr3
    movl    $0xc0000080, %ecx       // EFER: LME and NXE
    rdmsr
    orl     $0x900, %eax
    wrmsr
    movl    $0x80010033, %eax       // CR0: PG, WP, NE, ET, MP, PE
    movl    %eax, %cr0
    lgdt    GUEST_BOOT_GDTR
    ljmpl   $0x08, $guest_entry64

    .code64
    .global guest_entry64
guest_entry64:
    // A vCPU that starts here has no descriptor table yet, and a code segment without a selector.
    movl    %esp, %esp
    lgdt    GUEST_BOOT_GDTR
    pushq   $0x08
    pushq   $5f
    lretq
5:  movl    $0x10, %eax
    movl    %eax, %ds
    movl    %eax, %es
    movl    %eax, %ss
    xorl    %eax, %eax
    movl    %eax, %fs
    movl    %eax, %gs
    movl    %ebp, %edi
    testl   %edi, %edi
    jnz     3f
    call    guest_primary
3:  call    guest_secondary
4:  hlt
    jmp     4b

    .balign 8
GUEST_BOOT_GDT:
    .quad   0
    .quad   0x00af9b000000ffff      // 0x08: 64-bit code
    .quad   0x00cf93000000ffff      // 0x10: data
    .quad   0x00cf9b000000ffff      // 0x18: 32-bit code
GUEST_BOOT_GDTR:
    .word   4 * 8 - 1
    .quad   GUEST_BOOT_GDT

    // Copied to a page below 1 MiB; a SIPI starts here with cs:ip naming the page's start.
    .code16
    .global guest_trampoline
guest_trampoline:
    cli
    movw    %cs, %ax
    movw    %ax, %ds
    lgdtl   guest_trampoline_gdtr - guest_trampoline
    movl    $0x11, %eax             // CR0: ET, PE
    movl    %eax, %cr0
    ljmpl   $0x18, $guest_entry_ap
guest_trampoline_gdtr:
    .word   4 * 8 - 1
    .long   GUEST_BOOT_GDT
    .global guest_trampoline_end
guest_trampoline_end:

    .code32
guest_entry_ap:
    cld
    movl    $0x10, %eax
    movl    %eax, %ds
    movl    %eax, %es
    movl    %eax, %ss
    movl    GUEST_AP_INDEX, %ebp
    jmp     guest_long_mode
    .code64
    .text
"#,
    stack = const STACK_BYTES,
    options(att_syntax),
);
