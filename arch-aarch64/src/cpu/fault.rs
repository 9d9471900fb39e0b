//! Faults of the hypervisor itself: always a bug here, so say everything and stop.

use core::fmt::Write;

use super::regs::read;
use crate::console;

/// Called from the vectors with the registers as they were (x0.., pc at 31, pstate at 32).
///
/// # Safety
/// `frame` points to 33 words.
pub unsafe extern "C" fn own_fault(kind: u64, frame: *const u64) -> ! {
    let name = ["synchronous", "IRQ", "FIQ", "SError"][kind as usize & 3];
    let mut out = console::Raw;
    let (esr, far) = (read!("esr_el2"), read!("far_el2"));
    let _ = writeln!(
        out,
        "\r\n(XEN) hypervisor fault: {name}, CPU {}, ESR_EL2 {esr:#x}, FAR_EL2 {far:#x}\r",
        super::percpu::cpu_id().0
    );
    for i in 0..33usize {
        // SAFETY: the caller's promise.
        let value = unsafe { frame.add(i).read() };
        let _ = match i {
            31 => writeln!(out, "(XEN) pc  {value:#018x}\r"),
            32 => writeln!(out, "(XEN) psr {value:#018x}\r"),
            _ => writeln!(out, "(XEN) x{i:<2} {value:#018x}\r"),
        };
    }
    stop()
}

/// The end: this CPU does nothing more.
pub fn stop() -> ! {
    crate::smccc::system_off();
    halt()
}

/// This CPU does nothing more; the machine goes on.
pub fn halt() -> ! {
    loop {
        super::regs::wfi();
    }
}
