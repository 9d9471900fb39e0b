//! Interrupt entries. The hypervisor runs with interrupts masked and opens them only in its idle loop and behind an exit
//! that an interrupt caused, where no lock is held; an exception is a fault of the hypervisor itself, but for machine checks
//! and non-maskable interrupts, which are the machine's.

use core::{arch::global_asm, sync::atomic::Ordering::SeqCst};

use spin::Once;
use x86_64::{VirtAddr, instructions::tables, structures::DescriptorTablePointer};

use xenolith_core::sched::Work;

use super::{
    descriptors::{CODE, DOUBLE_FAULT_STACK, MACHINE_CHECK_STACK, NMI_STACK},
    fault, machine_check,
    percpu::PerCpu,
};
use crate::irq;

/// Another CPU asks this one to look at its work.
pub const KICK: u8 = 0xf0;
/// This CPU's timer.
pub const TIMER: u8 = 0xf1;
/// The local APIC's interrupt that was none.
pub const SPURIOUS: u8 = 0xff;

/// Exceptions have the numbers below this.
const EXCEPTIONS: u64 = 32;
const NMI: usize = 2;
const DOUBLE_FAULT: usize = 8;
const MACHINE_CHECK: usize = 18;

/// Registers as the entry code stores them, and what the CPU pushed.
#[repr(C)]
#[derive(Debug)]
pub struct Frame {
    /// r15 to r8, rbp, rdi, rsi, rdx, rcx, rbx, rax.
    pub general: [u64; 15],
    /// Which interrupt or exception.
    pub vector: u64,
    /// The exception's error code, or 0.
    pub error: u64,
    /// Where it happened.
    pub rip: u64,
    /// Code segment.
    pub cs: u64,
    /// Flags.
    pub rflags: u64,
    /// Stack pointer.
    pub rsp: u64,
    /// Stack segment.
    pub ss: u64,
}

global_asm!(
    r#"
    .section .text.vectors, "ax"
    .balign 16
    .global interrupt_entries
interrupt_entries:                      // one every 16 bytes
    .set number, 0
    .rept 256
    .balign 16
    .if !(number == 8 || (number >= 10 && number <= 14) || number == 17 || number == 21 || number == 29 || number == 30)
    pushq   $0                          // where the CPU pushes no error code
    .endif
    pushq   $number
    jmp     interrupt_common
    .set number, number + 1
    .endr

interrupt_common:
    pushq   %rax
    pushq   %rbx
    pushq   %rcx
    pushq   %rdx
    pushq   %rsi
    pushq   %rdi
    pushq   %rbp
    pushq   %r8
    pushq   %r9
    pushq   %r10
    pushq   %r11
    pushq   %r12
    pushq   %r13
    pushq   %r14
    pushq   %r15
    cld
    movq    %rsp, %rdi                  // Frame; the CPU aligned the stack, and 22 words keep it so
    callq   {taken}
    popq    %r15
    popq    %r14
    popq    %r13
    popq    %r12
    popq    %r11
    popq    %r10
    popq    %r9
    popq    %r8
    popq    %rbp
    popq    %rdi
    popq    %rsi
    popq    %rdx
    popq    %rcx
    popq    %rbx
    popq    %rax
    addq    $16, %rsp                   // vector and error code
    iretq
    .text
    "#,
    taken = sym taken,
    options(att_syntax),
);

unsafe extern "C" {
    static interrupt_entries: u8;
}

extern "C" fn taken(frame: &Frame) {
    if frame.vector < EXCEPTIONS {
        match frame.vector as usize {
            NMI => fault::non_maskable(),
            MACHINE_CHECK => machine_check::taken(frame),
            _ => fault::own_fault(frame),
        }
        return;
    }
    match frame.vector as u8 {
        SPURIOUS => return,
        KICK => {}
        TIMER => {
            if let Some(cpu) = PerCpu::try_current() {
                cpu.work.fetch_or(Work::TIMER.bits(), SeqCst);
            }
        }
        vector => irq::taken(vector),
    }
    crate::apic::end_of_interrupt();
}

/// A gate: present, interrupts masked, ring 0.
fn gate(vector: usize, stacks: Stacks) -> u128 {
    let entry = core::ptr::addr_of!(interrupt_entries) as u128 + vector as u128 * 16;
    let stack = match (stacks, vector) {
        (Stacks::Own, DOUBLE_FAULT) => DOUBLE_FAULT_STACK + 1,
        (Stacks::Own, MACHINE_CHECK) => MACHINE_CHECK_STACK + 1,
        (Stacks::Own, NMI) => NMI_STACK + 1,
        _ => 0,
    } as u128;
    (entry & 0xffff)
        | u128::from(CODE) << 16
        | stack << 32
        | 0x8e << 40
        | (entry >> 16 & 0xffff) << 48
        | (entry >> 32 & 0xffff_ffff) << 64
}

/// Where exceptions that must not rely on the present stack are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stacks {
    /// On stacks of their own, which the task state names.
    Own,
    /// On the present stack, because the task register is a guest's.
    Present,
}

static OWN: Once<[u128; 256]> = Once::new();
static PRESENT: Once<[u128; 256]> = Once::new();

/// Points this CPU at a table.
pub fn install(stacks: Stacks) {
    let table = match stacks {
        Stacks::Own => &OWN,
        Stacks::Present => &PRESENT,
    };
    let table = table.call_once(|| core::array::from_fn(|vector| gate(vector, stacks)));
    let pointer = DescriptorTablePointer {
        limit: size_of_val(table) as u16 - 1,
        base: VirtAddr::from_ptr(table),
    };
    // SAFETY: the table is complete and lives for ever.
    unsafe { tables::lidt(&pointer) }
}

const _: () = assert!(size_of::<Frame>() == 22 * 8);
