//! The machine's console: the PC's first serial port.

use xenolith_arch_common::console;
use xenolith_core::Hypervisor;
use xenolith_drivers::Uart;

use crate::X86_64;

pub use xenolith_arch_common::console::{Raw, buffer, flush, write};

const COM1: u16 = 0x3f8;
/// Its interrupt on the old bus.
pub const COM1_IRQ: u8 = 4;

/// Takes the port over and sends the `log` macros to it.
pub fn init() {
    // SAFETY: the ports are the first serial port's on every PC; nothing else drives it.
    console::set_uart(unsafe { Uart::at_ports(COM1) });
    console::init_log();
}

/// Lets the port interrupt when something is typed.
pub fn enable_input() {
    if let Some(uart) = console::uart() {
        uart.enable_receive_interrupt();
    }
}

/// Something was typed, or the port can send more.
pub fn interrupt(hv: &'static Hypervisor<X86_64>) {
    console::interrupt(|byte| hv.console.input(hv, byte));
}
