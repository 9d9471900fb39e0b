//! Exceptions that the hypervisor makes the guest's kernel take (Privileged Architecture, "Trap Entry"). The vCPU is loaded,
//! so VS-mode's trap registers are those of this CPU.
//!
//! An exception that the kernel's vector itself raises would be taken at that vector, which raises it again: its registers are
//! as they were and interrupts are off, so nothing of the guest would ever run on this vCPU. Its domain ends. Where anything runs
//! in between, the guest may go on as long as it likes: it uses its own time. So does a CPU that delivers page faults to such a
//! vector for ever, which nobody here sees.

use super::{
    cause::{self, Tried, number},
    exit::Context,
    regs::{SIE, SPIE, SPP},
};
use crate::cpu::regs::{read, write};

fn take(cx: &mut Context<'_>, cause: u64, value: u64) {
    // Exceptions go to the base, whatever the mode in the two lowest bits is.
    let vector = read!("vstvec") & !3;
    if cx.regs.in_kernel() && cx.regs.pc == vector {
        return ends(cx, cause, value);
    }
    let regs = &mut *cx.regs;
    let status = read!("vsstatus");
    let from = regs.sstatus & SPP;
    let was_on = if status & SIE != 0 { SPIE } else { 0 };
    write!("vsstatus", status & !(SPP | SPIE | SIE) | from | was_on);
    write!("vsepc", regs.pc);
    write!("vscause", cause);
    write!("vstval", value);
    regs.sstatus |= SPP;
    regs.pc = vector;
}

#[cold]
fn ends(cx: &Context<'_>, cause: u64, value: u64) {
    cx.crash(format_args!(
        "its exception vector {:#x} raises exception {cause} itself ({}, {value:#x})",
        cx.regs.pc,
        cause::name(cause)
    ));
}

/// The instruction does not exist for this guest.
pub fn illegal(cx: &mut Context<'_>, instruction: u64) {
    take(cx, number::ILLEGAL, instruction);
}

/// There is nothing at an address.
pub fn access_fault(cx: &mut Context<'_>, tried: Tried, address: u64) {
    take(cx, tried.access_fault(), address);
}

/// An exception that would have been the guest's own.
pub fn reflect(cx: &mut Context<'_>, cause: u64, value: u64) {
    take(cx, cause, value);
}
