//! Interrupt entries. The hypervisor runs with interrupts masked and opens them only in its idle loop and behind an exit
//! that an interrupt caused, where no lock is held; an exception in it is a fault of its own, but for machine checks and
//! non-maskable interrupts, which are the machine's, and for those of instructions that are known to fault
//! ([`super::recovery`]). What stops a guest in ring 3 goes to [`crate::pv::entry`].

use core::{arch::global_asm, sync::atomic::Ordering::SeqCst};

use spin::Once;
use x86_64::{VirtAddr, instructions::tables, structures::DescriptorTablePointer};

use xenolith_core::sched::Work;

use super::{
    descriptors::{CODE, DEBUG_STACK, DOUBLE_FAULT_STACK, MACHINE_CHECK_STACK, NMI_STACK},
    fault, machine_check, nmi,
    percpu::PerCpu,
    recovery,
};
use crate::{
    irq,
    pv::frame::{Frame, pop_behind_r13, push_general},
};

/// Another CPU asks this one to look at its work.
pub const KICK: u8 = 0xf0;
/// This CPU's timer.
pub const TIMER: u8 = 0xf1;
/// The local APIC's interrupt that was none.
pub const SPURIOUS: u8 = 0xff;

/// Exceptions have the numbers below this.
const EXCEPTIONS: u64 = 32;
const DEBUG: u64 = 1;
const NMI: u64 = 2;
const DOUBLE_FAULT: u64 = 8;
const MACHINE_CHECK: u64 = 18;
/// What instructions of a guest in ring 3 may raise: INT3, INTO, and the old system call. All other INTs are protection
/// faults, and looked at there.
const FROM_RING_3: [u64; 3] = [3, 4, 0x80];

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
    .if number != 14
    pushq   $number
    .endif
    .if number == 1
    jmp     interrupt_debug
    .elseif number == 2 || number == 8 || number == 18
    jmp     interrupt_own
    .elseif number == 14
    jmp     interrupt_page
    .else
    jmp     interrupt_common
    .endif
    .set number, number + 1
    .endr

interrupt_debug:                        // on a stack of its own
    "#,
    push_general!(),
    r#"
    cld
    testb   $3, {cs}(%rsp)
    jnz     pv_stopped_elsewhere
    jmp     0f

interrupt_page:
    testb   $3, {cs} - {error}(%rsp)
    jnz     pv_page_fault               // a guest's
    pushq   $14

interrupt_common:
    "#,
    push_general!(),
    r#"
    cld
    testb   $3, {cs}(%rsp)
    jnz     pv_stopped                  // a guest's: the stack is the gate page
    jmp     0f

interrupt_own:                          // the machine's, whoever was interrupted
    "#,
    push_general!(),
    r#"
    cld
    .global interrupt_taken
interrupt_taken:                        // another way begins here on some machines (pv/guard.rs)
0:  movq    %rsp, %rdi                  // Frame; the CPU aligned the stack, and 22 words keep it so
    callq   {taken}
    .global interrupt_taken_rest
interrupt_taken_rest:
    popq    %r15
    popq    %r14
    popq    %r13
    "#,
    pop_behind_r13!(),
    r#"
    addq    $16, %rsp                   // vector and error code
    iretq
    .text
    "#,
    taken = sym taken,
    cs = const core::mem::offset_of!(Frame, cs),
    error = const core::mem::offset_of!(Frame, error),
    options(att_syntax),
);

unsafe extern "C" {
    static interrupt_entries: u8;
}

/// What is not a guest's.
pub(crate) extern "C" fn taken(frame: &mut Frame) {
    match frame.vector {
        NMI => nmi::taken(frame),
        MACHINE_CHECK => machine_check::taken(frame),
        0..EXCEPTIONS => {
            if !recovery::recover(frame) {
                fault::own_fault(frame)
            }
        }
        vector => interrupt(vector as u8),
    }
}

/// Serves an interrupt that the CPU has taken.
#[inline]
pub fn interrupt(vector: u8) {
    match vector {
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

/// A gate: present, interrupts masked, and who may get there by an instruction.
fn gate(vector: u64, stacks: Stacks) -> u128 {
    let entry = core::ptr::addr_of!(interrupt_entries) as u128 + u128::from(vector) * 16;
    let stack = match (stacks, vector) {
        (Stacks::Own, DOUBLE_FAULT) => DOUBLE_FAULT_STACK + 1,
        (Stacks::Own, MACHINE_CHECK) => MACHINE_CHECK_STACK + 1,
        (Stacks::Own, NMI) => NMI_STACK + 1,
        (Stacks::Own, DEBUG) => DEBUG_STACK + 1,
        _ => 0,
    } as u128;
    let rights = if FROM_RING_3.contains(&vector) {
        0xee
    } else {
        0x8e
    };
    (entry & 0xffff)
        | u128::from(CODE) << 16
        | stack << 32
        | rights << 40
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

/// A table on pages of its own, which are mapped beside isolated guests.
#[repr(align(4096))]
struct Table(Once<[u128; 256]>);

#[unsafe(link_section = ".data.entry")]
static OWN: Table = Table(Once::new());
static PRESENT: Table = Table(Once::new());

/// Points this CPU at a table.
pub fn install(stacks: Stacks) {
    let table = match stacks {
        Stacks::Own => &OWN,
        Stacks::Present => &PRESENT,
    };
    let table = table
        .0
        .call_once(|| core::array::from_fn(|vector| gate(vector as u64, stacks)));
    let pointer = DescriptorTablePointer {
        limit: size_of_val(table) as u16 - 1,
        base: VirtAddr::from_ptr(table),
    };
    // SAFETY: the table is complete and lives for ever.
    unsafe { tables::lidt(&pointer) }
}
