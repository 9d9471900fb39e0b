//! Touching what may not be there, while nothing of the machine is known: a read or a firmware call that takes an exception
//! instead of an answer gives `None`.
//!
//! For the duration of one instruction the vectors are a table whose every entry goes on behind that instruction and says
//! that it failed. Start-up only: asynchronous exceptions are masked, and no guest exists. An abort that the bus reports
//! asynchronously stays pending and masked, and the value read is whatever came.

use core::arch::{asm, global_asm};

global_asm!(
    r#"
    .section .text.vectors, "ax"
    .balign 2048
probe_vectors:
    .rept 16
    .balign 128
    mrs     x16, elr_el2                // the instruction that failed
    add     x16, x16, #4
    msr     elr_el2, x16
    mov     x17, #1
    eret
    dsb     nsh                         // nothing is speculated past the eret
    isb
    .endr
    .balign 128
    "#
);

unsafe extern "C" {
    static probe_vectors: [u8; 2048];
}

fn table() -> u64 {
    core::ptr::addr_of!(probe_vectors) as u64
}

/// Reads a word, if there is one.
///
/// # Safety
/// The address is mapped and aligned, reading it changes nothing that matters, and this CPU's exceptions are masked.
pub unsafe fn read(at: *const u32) -> Option<u32> {
    let (value, failed): (u32, u64);
    // SAFETY: the caller's promise; an exception comes back to the next instruction, with x16 and x17 changed only.
    unsafe {
        asm!(
            "mrs {old}, vbar_el2",
            "msr vbar_el2, {table}",
            "isb",
            "mov x17, #0",
            "mov {value:w}, #0",
            "ldr {value:w}, [{at}]",
            "dsb sy",
            "msr vbar_el2, {old}",
            "isb",
            old = out(reg) _, table = in(reg) table(), value = out(reg) value, at = in(reg) at,
            out("x16") _, out("x17") failed,
            options(nostack),
        );
    }
    (failed == 0).then_some(value)
}

/// Calls the firmware without arguments. Without firmware the instruction is undefined, and the function's number comes
/// back, which no call answers.
pub fn firmware(function: u32) -> Option<i32> {
    let mut result = u64::from(function);
    // SAFETY: the calling convention lets the firmware change x0 to x17 only; an exception comes back behind the call.
    unsafe {
        asm!(
            "mrs {old}, vbar_el2",
            "msr vbar_el2, {table}",
            "isb",
            "smc #0",
            "msr vbar_el2, {old}",
            "isb",
            old = out(reg) _, table = in(reg) table(),
            inout("x0") result, out("x1") _, out("x2") _, out("x3") _, out("x4") _, out("x5") _, out("x6") _,
            out("x7") _, out("x8") _, out("x9") _, out("x10") _, out("x11") _, out("x12") _, out("x13") _,
            out("x14") _, out("x15") _, out("x16") _, out("x17") _,
            options(nostack),
        );
    }
    (result as u32 != function).then_some(result as i32)
}
