//! The machine's console: the PC's first serial port.

use xenolith_arch_common::console;
use xenolith_drivers::Uart;

pub use xenolith_arch_common::console::{Raw, write};

const COM1: u16 = 0x3f8;

/// Takes the port over and sends the `log` macros to it.
pub fn init() {
    // SAFETY: the ports are the first serial port's on every PC; nothing else drives it.
    console::set_uart(unsafe { Uart::at_ports(COM1) });
    console::init_log();
}
