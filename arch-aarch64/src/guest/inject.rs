//! Exceptions that the hypervisor makes the guest's kernel take (Arm ARM DDI 0487, AArch64.TakeException).
//!
//! The vCPU is loaded, so EL1's exception registers are those of this CPU.

use super::regs::{GuestRegs, exception_pstate};
use crate::cpu::regs::{read, write};

const EC_UNKNOWN: u64 = 0x00;
const EC_INSTRUCTION_ABORT_LOWER: u64 = 0x20;
const EC_DATA_ABORT_LOWER: u64 = 0x24;
const IL: u64 = 1 << 25;
const EXTERNAL_ABORT: u64 = 0x10;

fn from_el0(regs: &GuestRegs) -> bool {
    regs.sync_vector() >= 0x400
}

fn take(regs: &mut GuestRegs, esr: u64) {
    write!("esr_el1", esr);
    write!("spsr_el1", regs.pstate);
    write!("elr_el1", regs.pc);
    regs.pc = read!("vbar_el1").wrapping_add(regs.sync_vector());
    regs.pstate = exception_pstate(regs.pstate, read!("sctlr_el1"));
}

/// The instruction does not exist for this guest.
pub fn undefined(regs: &mut GuestRegs) {
    take(regs, EC_UNKNOWN << 26 | IL);
}

/// A data access went to where nothing is: a synchronous external abort at `far`.
pub fn data_abort(regs: &mut GuestRegs, far: u64, write: bool) {
    let class = EC_DATA_ABORT_LOWER + u64::from(!from_el0(regs));
    write!("far_el1", far);
    take(
        regs,
        class << 26 | IL | u64::from(write) << 6 | EXTERNAL_ABORT,
    );
}

/// An instruction was fetched from where nothing is.
pub fn instruction_abort(regs: &mut GuestRegs, far: u64) {
    let class = EC_INSTRUCTION_ABORT_LOWER + u64::from(!from_el0(regs));
    write!("far_el1", far);
    take(regs, class << 26 | IL | EXTERNAL_ABORT);
}
