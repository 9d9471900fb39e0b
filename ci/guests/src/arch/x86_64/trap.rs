//! Exceptions and interrupts. A test says beforehand that an instruction may fault (`fault_of`); the handler then
//! notes the exception and leaves what ran. Any other exception ends the guest with a result line.

use core::arch::{asm, global_asm};
use core::cell::UnsafeCell;
use core::sync::atomic::Ordering;

use super::cpu::{Pointer, STAMP, selector, this_cpu};
use super::landing;
use super::regs::cr2;

/// What an expected fault looked like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Vector.
    pub vector: u64,
    /// Error code; 0 for exceptions that have none.
    pub error: u64,
    /// CR2; of meaning for page faults only.
    pub address: u64,
    /// Address of the faulting instruction.
    pub rip: u64,
}

/// Exceptions that tests meet.
#[allow(missing_docs)]
pub mod exception {
    pub const DIVIDE: u64 = 0;
    pub const DEBUG: u64 = 1;
    pub const NMI: u64 = 2;
    pub const BREAKPOINT: u64 = 3;
    pub const UNDEFINED: u64 = 6;
    pub const NO_DEVICE: u64 = 7;
    pub const DOUBLE: u64 = 8;
    pub const INVALID_TASK: u64 = 10;
    pub const NOT_PRESENT: u64 = 11;
    pub const STACK: u64 = 12;
    pub const PROTECTION: u64 = 13;
    pub const PAGE: u64 = 14;
}

/// Registers of the interrupted code, as the vectors of exceptions save them.
#[repr(C)]
struct Frame {
    r15_to_rsi: [u64; 9],
    rdi: u64,
    rbp_to_rax: [u64; 5],
    vector: u64,
    error: u64,
    rip: u64,
    cs: u64,
    rflags: u64,
    rsp: u64,
    ss: u64,
}

#[repr(C, align(16))]
struct Idt(UnsafeCell<[[u64; 2]; 256]>);

// SAFETY: written once by the first CPU before others run, except by `set_gate`, which a case calls alone.
unsafe impl Sync for Idt {}

static IDT: Idt = Idt(UnsafeCell::new([[0; 2]; 256]));

unsafe extern "C" {
    static guest_vectors: u8;
}

const STUB_BYTES: u64 = 16;
const INTERRUPT: u64 = 0x8e;
const INTERRUPT_FOR_USERS: u64 = 0xee;

/// Fills the table with the runtime's vectors.
pub(super) fn init() {
    for vector in 0..256 {
        let at = (&raw const guest_vectors) as u64 + vector * STUB_BYTES;
        let stack = u64::from(vector == exception::DOUBLE);
        // User code comes back by a breakpoint.
        let kind = if vector == exception::BREAKPOINT {
            INTERRUPT_FOR_USERS
        } else {
            INTERRUPT
        };
        let low = at & 0xffff
            | u64::from(selector::CODE) << 16
            | stack << 32
            | kind << 40
            | (at >> 16 & 0xffff) << 48;
        // SAFETY: only this CPU runs.
        unsafe { (*IDT.0.get())[vector as usize] = [low, at >> 32] };
    }
}

/// Loads the table on this CPU.
pub(super) fn load() {
    let pointer = Pointer {
        limit: 256 * 16 - 1,
        base: IDT.0.get() as u64,
    };
    // SAFETY: the table is filled and lives for ever.
    unsafe { asm!("lidt [{}]", in(reg) &raw const pointer, options(nostack)) };
}

global_asm!(
    r#"
    .balign 16
guest_vectors:
    .set    number, 0
    .rept   256
    .balign 16
    .if     !((number == 8) || ((number >= 10) && (number <= 14)) || (number == 17) || (number == 21) || (number == 29) || (number == 30))
    push    0
    .endif
    .byte   0x68                    // push imm32, sign-extended
    .long   number
    .if     number < 32
    jmp     guest_exception
    .else
    jmp     guest_irq
    .endif
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
    iretq

    // The counter is read first: the benchmarks time "to handler" by it. Interrupts are never nested.
guest_irq:
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
    mov     rdi, [rsp + 72]
    call    guest_irq_rust
    pop     r11
    pop     r10
    pop     r9
    pop     r8
    pop     rdi
    pop     rsi
    pop     rcx
    pop     rdx
    pop     rax
    add     rsp, 16
    iretq
"#,
    stamp = const STAMP,
);

#[unsafe(no_mangle)]
extern "C" fn guest_exception_rust(frame: &mut Frame) {
    let own = this_cpu();
    if frame.vector == exception::NMI {
        own.nmis.fetch_add(1, Ordering::SeqCst);
        return;
    }
    if own.expecting.swap(0, Ordering::SeqCst) != 0 {
        own.vector.store(frame.vector, Ordering::Relaxed);
        own.error.store(frame.error, Ordering::Relaxed);
        own.address.store(cr2(), Ordering::Relaxed);
        own.rip.store(frame.rip, Ordering::Relaxed);
        own.faulted.store(1, Ordering::SeqCst);
        (frame.rdi, frame.rip) = landing::after_a_fault();
        // Whatever code and stack faulted, the landing is the runtime's own.
        frame.cs = u64::from(selector::CODE);
        frame.ss = u64::from(selector::DATA);
        frame.rsp = (&raw const *frame) as u64;
        // No single steps, alignment checks or backward strings: only whether interrupts are taken stays.
        frame.rflags = frame.rflags & 0x200 | 2;
        return;
    }
    panic!(
        "exception {} error {:#x} cr2 {:#x} rip {:#x} rsp {:#x} rflags {:#x}",
        frame.vector,
        frame.error,
        cr2(),
        frame.rip,
        frame.rsp,
        frame.rflags
    );
}
