//! The machine's console: a UART of the device tree, and the firmware's before it is found.

use xenolith_drivers::{Uart, UartKind};
use xenolith_hal::HostPhys;

pub use xenolith_arch_common::console::{Raw, write};

use crate::{mm::hyp::Hyp, sbi};

/// Takes over the UART. False when its registers cannot be mapped.
pub fn init(kind: UartKind, base: HostPhys, len: u64) -> bool {
    let Ok(va) = Hyp::map_device(base, len) else {
        return false;
    };
    // SAFETY: the registers are mapped for ever; nothing else drives the device.
    xenolith_arch_common::console::set_uart(unsafe { Uart::new(kind, va) });
    true
}

/// Sends the `log` macros to the console.
pub fn init_log() {
    xenolith_arch_common::console::set_fallback(sbi::put);
    xenolith_arch_common::console::init_log();
}
