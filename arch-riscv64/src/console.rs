//! The machine's console: a UART of the device tree, and the firmware's before it is found.

use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use xenolith_arch_common::console;
use xenolith_core::Hypervisor;
use xenolith_drivers::{Uart, UartKind};
use xenolith_hal::HostPhys;

pub use xenolith_arch_common::console::{Raw, flush, write};

use crate::{Riscv64, mm::hyp::Hyp, plic, sbi};

/// The interrupt source of the UART, once it has one.
static SOURCE: AtomicU32 = AtomicU32::new(0);

/// Takes over the UART. False when its registers cannot be mapped.
pub fn init(kind: UartKind, base: HostPhys, len: u64) -> bool {
    let Ok(va) = Hyp::map_device(base, len) else {
        return false;
    };
    // SAFETY: the registers are mapped for ever; nothing else drives the device.
    console::set_uart(unsafe { Uart::new(kind, va) });
    true
}

/// Lets the UART interrupt by this source of the interrupt controller.
pub fn enable_interrupt(source: u32) {
    SOURCE.store(source, Relaxed);
    plic::open(source);
    if let Some(uart) = console::uart() {
        uart.enable_receive_interrupt();
        console::buffer();
    }
}

/// A source interrupted: takes the input if it is the UART's. Else false.
pub fn interrupt(hv: &'static Hypervisor<Riscv64>, source: u32) -> bool {
    let own = source == SOURCE.load(Relaxed);
    if own {
        console::interrupt(|byte| hv.console.input(hv, byte));
    }
    own
}

/// Sends the `log` macros to the console.
pub fn init_log() {
    console::set_fallback(sbi::put);
    console::init_log();
}
