//! Faults of the hypervisor itself: always a bug here, so say everything and stop.

use core::{
    fmt::Write,
    sync::atomic::{AtomicBool, Ordering::SeqCst},
};

use crate::{console, pv::frame::Frame};

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
    let _ = frame.dump(&mut out);
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
