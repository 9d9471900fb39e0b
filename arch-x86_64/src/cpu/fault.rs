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

/// An interrupt that no mask holds back: hardware in trouble, or a watchdog's or a person's button. It is told, and the
/// machine goes on.
pub fn non_maskable() {
    const SYSTEM_CONTROL: u16 = 0x61;
    // SAFETY: a status port that every PC has; reading it changes nothing.
    let reason = unsafe { x86_64::instructions::port::Port::<u8>::new(SYSTEM_CONTROL).read() };
    let said = match reason >> 6 {
        0 => "without a reason",
        1 => "by an I/O channel check",
        _ => "by a system error",
    };
    let cpu = super::percpu::cpu_id().0;
    let _ = writeln!(
        console::Raw,
        "\r\n(XEN) non-maskable interrupt on CPU {cpu} {said} (port 0x61: {reason:#04x})\r"
    );
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
