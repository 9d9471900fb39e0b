//! Instructions of the hypervisor that may fault because of what a guest gave them: each has a place to go on at instead.
//!
//! Where they are (from, to behind the last) and where to go on stands in a table that the linker gathers (`ex_table` in
//! `targets/x86_64.ld`). The instructions say in their own place what a fault there means.

use super::percpu::PerCpu;
use crate::pv::{entry, frame::Frame};

#[repr(C)]
struct Place {
    first: u64,
    end: u64,
    resume: u64,
}

unsafe extern "C" {
    static _ex_table_start: [Place; 0];
    static _ex_table_end: [Place; 0];
}

fn table() -> &'static [Place] {
    let (start, end) = (&raw const _ex_table_start, &raw const _ex_table_end);
    let count = (end as usize - start as usize) / size_of::<Place>();
    // SAFETY: the linker puts whole entries between the two symbols, constants of the image.
    unsafe { core::slice::from_raw_parts(start.cast(), count) }
}

/// Makes the interrupted code go on where a fault of that instruction is dealt with; false: none is expected there.
pub fn recover(frame: &mut Frame) -> bool {
    const DEBUG: u64 = 1;
    const TRAP: u64 = 1 << 8;
    if frame.vector == DEBUG {
        // A guest's breakpoint on data that the hypervisor touches for it, or its single step that arrives late.
        if !entry::is_before_flags_are_known(frame.rip) {
            frame.rflags &= !TRAP;
        }
        // SAFETY: what the register tells belongs to nobody.
        unsafe {
            core::arch::asm!("mov dr6, {}", in(reg) 0xffff_0ff0_u64, options(nomem, nostack, preserves_flags))
        };
        return true;
    }
    let Some(place) = table()
        .iter()
        .find(|place| (place.first..place.end).contains(&frame.rip))
    else {
        return false;
    };
    note(frame);
    frame.rip = place.resume;
    true
}

/// Keeps what a failed return to a guest says.
fn note(frame: &Frame) {
    if let Some(gates) = PerCpu::try_current().and_then(|cpu| cpu.gates.get()) {
        // SAFETY: the executing CPU's own gate; nobody else touches these words.
        unsafe { (*gates.gate()).head.failed = [frame.vector, frame.error] };
    }
}
