//! Instructions of the hypervisor that may fault because of what a guest gave them: each has a place to go on at instead.
//!
//! The pairs (address of the instruction, address to go on at) stand in a table that the linker gathers (`ex_table` in
//! `targets/x86_64.ld`). The instructions say in their own place what a fault there means.

use super::percpu::PerCpu;
use crate::pv::frame::Frame;

#[repr(C)]
struct Pair {
    faulting: u64,
    resume: u64,
}

unsafe extern "C" {
    static _ex_table_start: [Pair; 0];
    static _ex_table_end: [Pair; 0];
}

fn table() -> &'static [Pair] {
    let (start, end) = (&raw const _ex_table_start, &raw const _ex_table_end);
    let count = (end as usize - start as usize) / size_of::<Pair>();
    // SAFETY: the linker puts whole pairs between the two symbols, constants of the image.
    unsafe { core::slice::from_raw_parts(start.cast(), count) }
}

/// Makes the interrupted code go on where a fault of that instruction is dealt with; false: none is expected there.
pub fn recover(frame: &mut Frame) -> bool {
    const DEBUG: u64 = 1;
    const TRAP: u64 = 1 << 8;
    if frame.vector == DEBUG {
        // A guest's breakpoint on data that the hypervisor touches for it, or its single step that arrives late.
        frame.rflags &= !TRAP;
        // SAFETY: what the register tells belongs to nobody.
        unsafe {
            core::arch::asm!("mov dr6, {}", in(reg) 0xffff_0ff0_u64, options(nomem, nostack, preserves_flags))
        };
        return true;
    }
    let Some(pair) = table().iter().find(|pair| pair.faulting == frame.rip) else {
        return false;
    };
    note(frame);
    frame.rip = pair.resume;
    true
}

/// Keeps what a failed return to a guest says.
fn note(frame: &Frame) {
    if let Some(gates) = PerCpu::try_current().and_then(|cpu| cpu.gates.get()) {
        // SAFETY: the executing CPU's own gate; nobody else touches these words.
        unsafe { (*gates.gate()).failed = [frame.vector, frame.error] };
    }
}
