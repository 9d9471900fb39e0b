//! Elf notes of a PV kernel (`public/elfnote.h`), its first instructions, and the entry points that the hypervisor
//! calls: traps, events, failsafe, system calls. `arch-x86/xen-x86_64.h` gives the frames: at each entry the stack holds
//! rcx, r11, an error code where the trap has one, and what IRETQ takes.

use core::arch::global_asm;

use super::cpu::{MAX_CPUS, STACK_BYTES, STAMP, SYSCALLS};
use super::trap::{FAILSAFE, SYSCALL};

#[repr(C, align(16))]
struct Stacks([[u8; STACK_BYTES]; MAX_CPUS]);

#[unsafe(no_mangle)]
static mut GUEST_STACKS: Stacks = Stacks([[0; STACK_BYTES]; MAX_CPUS]);

#[repr(C, align(4096))]
struct Bytes([u8; 4096]);

/// Filled by the domain builder, as the note says.
#[unsafe(no_mangle)]
static mut GUEST_HYPERCALL_PAGE: Bytes = Bytes([0; 4096]);

global_asm!(
    r#"
    .macro  note_text type, text
    .balign 4
    .long   4, 11f - 10f, \type
    .asciz  "Xen"
10: .asciz  "\text"
11: .balign 4
    .endm
    .macro  note_word type, word
    .balign 4
    .long   4, 8, \type
    .asciz  "Xen"
    .quad   \word
    .endm

    .section .note.Xen, "a", @note
    note_text 6, "Xenolith guest"           // GUEST_OS
    note_text 5, "xen-3.0"                  // XEN_VERSION
    note_text 8, "generic"                  // LOADER
    note_text 9, "yes"                      // PAE_MODE
    note_text 10, "!writable_page_tables"   // FEATURES
    note_word 1, guest_entry_pv             // ENTRY
    note_word 2, GUEST_HYPERCALL_PAGE       // HYPERCALL_PAGE
    note_word 3, 0x40000000                 // VIRT_BASE
    note_word 17, 0x800                     // SUPPORTED_FEATURES: dom0

    .section .head, "ax"
    .global guest_entry_pv
guest_entry_pv:
    cld
    mov     GUEST_START_INFO, rsi
    lea     rsp, [GUEST_STACKS + {stack}]
    xor     ebp, ebp
    xor     edi, edi
    call    guest_primary
    ud2

    // A vCPU that another brings up: rdi is its index, rsp its stack.
    .global guest_entry_secondary
guest_entry_secondary:
    cld
    xor     ebp, ebp
    call    guest_secondary
    ud2

    .text
    .balign 16
    .global guest_vectors
guest_vectors:
    .set    number, 0
    .rept   256
    .balign 16
    pop     rcx
    pop     r11
    .if     !((number == 8) || ((number >= 10) && (number <= 14)) || (number == 17) || (number == 21) || (number == 29) || (number == 30))
    push    0
    .endif
    .byte   0x68                    // push imm32
    .long   number
    jmp     guest_exception
    .set    number, number + 1
    .endr

guest_exception:
    push    rax
    push    rbx
    push    rcx
    push    rdx
    push    rbp
    push    rdi
    push    rsi
    push    r8
    push    r9
    push    r10
    push    r11
    push    r12
    push    r13
    push    r14
    push    r15
    rdtsc
    shl     rdx, 32
    or      rax, rdx
    mov     gs:[{stamp}], rax
    cld
    mov     rdi, rsp
    call    guest_exception_rust
    pop     r15
    pop     r14
    pop     r13
    pop     r12
    pop     r11
    pop     r10
    pop     r9
    pop     r8
    pop     rsi
    pop     rdi
    pop     rbp
    pop     rdx
    pop     rcx
    pop     rbx
    pop     rax
    add     rsp, 16
    // The stack holds what IRETQ takes; the hypercall wants flags, rcx, r11 and rax below it.
    .global guest_iret
guest_iret:
    push    0
    push    rcx
    push    r11
    push    rax
    mov     eax, 23
    syscall
    ud2

    .global guest_event
guest_event:
    pop     rcx
    pop     r11
    push    rax
    push    rdx
    rdtsc
    shl     rdx, 32
    or      rax, rdx
    mov     gs:[{stamp}], rax
    push    rcx
    push    rsi
    push    rdi
    push    r8
    push    r9
    push    r10
    push    r11
    cld
    call    guest_event_rust
    pop     r11
    pop     r10
    pop     r9
    pop     r8
    pop     rdi
    pop     rsi
    pop     rcx
    pop     rdx
    pop     rax
    jmp     guest_iret

    // rcx, r11, ds, es, fs, gs, then as for a trap. The selectors that did not load are gone.
    .global guest_failsafe
guest_failsafe:
    mov     rcx, [rsp]
    mov     r11, [rsp + 8]
    add     rsp, 48
    push    0
    .byte   0x68
    .long   {failsafe}
    jmp     guest_exception

    // A system call of user code. That one with rax = 0 is answered at once, for the benchmark.
    .global guest_syscall
guest_syscall:
    test    rax, rax
    jnz     2f
    add     qword ptr gs:[{syscalls}], 1
    pop     rcx
    pop     r11
    push    0x100                   // VGCF_in_syscall
    push    rcx
    push    r11
    push    rax
    mov     eax, 23
    syscall
    ud2
2:  pop     rcx
    pop     r11
    push    0
    .byte   0x68
    .long   {syscall}
    jmp     guest_exception
"#,
    stack = const STACK_BYTES,
    stamp = const STAMP,
    syscalls = const SYSCALLS,
    failsafe = const FAILSAFE,
    syscall = const SYSCALL,
);
