//! Faults of the hypervisor itself: always a bug here, so say everything and stop.

use core::fmt::Write;

use super::regs::read;
use crate::console;

/// Called from the vector with x1 to x31 as they were, in order.
///
/// # Safety
/// `frame` points to the 31 words that the vector stored.
pub unsafe extern "C" fn own_fault(frame: *const u64) -> ! {
    let mut out = console::Raw;
    let _ = writeln!(
        out,
        "\r\n(XEN) hypervisor fault: CPU {}, scause {:#x}, stval {:#x}, sepc {:#x}\r",
        super::percpu::cpu_id().0,
        read!("scause"),
        read!("stval"),
        read!("sepc"),
    );
    for i in 1..32usize {
        // SAFETY: the caller's promise.
        let value = unsafe { frame.add(i - 1).read() };
        let _ = writeln!(out, "(XEN) x{i:<2} {value:#018x}\r");
    }
    stop()
}

/// The end: the machine goes off, if it can.
pub fn stop() -> ! {
    crate::sbi::system_off();
    halt()
}

/// This CPU does nothing more; the machine goes on.
pub fn halt() -> ! {
    loop {
        super::regs::wfi();
    }
}
