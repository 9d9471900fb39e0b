//! Faults of the hypervisor itself: always a bug here, so say everything and stop.

use core::{
    fmt::Write,
    sync::atomic::{AtomicBool, Ordering::SeqCst},
};

use super::vectors::Frame;
use crate::console;

const NAMES: [&str; 15] = [
    "r15", "r14", "r13", "r12", "r11", "r10", "r9", "r8", "rbp", "rdi", "rsi", "rdx", "rcx", "rbx",
    "rax",
];

/// A fault is being told. Another one, of this CPU while it tells or of any other, must not run over it.
static TOLD: AtomicBool = AtomicBool::new(false);

/// An exception in the hypervisor. The first one is told; who comes later stops in silence.
pub fn own_fault(frame: &Frame) -> ! {
    if TOLD.swap(true, SeqCst) {
        halt()
    }
    let mut out = console::Raw;
    let _ = writeln!(
        out,
        "\r\n(XEN) hypervisor fault: exception {}, error code {:#x}, CPU {}, cr2 {:#x}\r",
        frame.vector,
        frame.error,
        super::percpu::cpu_id().0,
        x86_64::registers::control::Cr2::read_raw(),
    );
    let _ = writeln!(
        out,
        "(XEN) rip {:#018x} cs {:#x} rflags {:#x} rsp {:#018x}\r",
        frame.rip, frame.cs, frame.rflags, frame.rsp
    );
    for (name, value) in NAMES.iter().zip(frame.general) {
        let _ = writeln!(out, "(XEN) {name:<3} {value:#018x}\r");
    }
    stop()
}

/// The end: the machine goes off, if it can.
pub fn stop() -> ! {
    crate::power::off();
    halt()
}

/// This CPU does nothing more; the machine goes on.
pub fn halt() -> ! {
    loop {
        x86_64::instructions::interrupts::disable();
        x86_64::instructions::hlt();
    }
}
