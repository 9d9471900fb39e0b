//! Exceptions that the hypervisor makes the guest's kernel take (Privileged Architecture, "Trap Entry"). The vCPU is loaded,
//! so VS-mode's trap registers are those of this CPU.

use super::{
    cause::{Tried, number},
    regs::{GuestRegs, SIE, SPIE, SPP},
};
use crate::cpu::regs::{read, write};

fn take(regs: &mut GuestRegs, cause: u64, value: u64) {
    let status = read!("vsstatus");
    let from = regs.sstatus & SPP;
    let was_on = if status & SIE != 0 { SPIE } else { 0 };
    write!("vsstatus", status & !(SPP | SPIE | SIE) | from | was_on);
    write!("vsepc", regs.pc);
    write!("vscause", cause);
    write!("vstval", value);
    regs.sstatus |= SPP;
    // Exceptions go to the base, whatever the mode in the two lowest bits is.
    regs.pc = read!("vstvec") & !3;
}

/// The instruction does not exist for this guest.
pub fn illegal(regs: &mut GuestRegs, instruction: u64) {
    take(regs, number::ILLEGAL, instruction);
}

/// There is nothing at an address.
pub fn access_fault(regs: &mut GuestRegs, tried: Tried, address: u64) {
    take(regs, tried.access_fault(), address);
}

/// An exception that would have been the guest's own.
pub fn reflect(regs: &mut GuestRegs, cause: u64, value: u64) {
    take(regs, cause, value);
}
