//! The machine's console as the architecture sees it: one UART, found in the device tree.

use core::{
    fmt,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};

use spin::Once;
use xenolith_drivers::{Uart, UartKind};
use xenolith_hal::{
    HostPhys,
    sync::{Mutex, Rank},
};

use xenolith_core::Hypervisor;

use crate::{Aarch64, mm::hyp};

#[cfg(not(any(feature = "pl011", feature = "cadence", feature = "ns16550")))]
compile_error!("an image needs the driver of at least one UART: feature pl011, cadence or ns16550");

static UART: Once<Uart> = Once::new();
static LOCK: Mutex<()> = Mutex::new(Rank::Console, ());

/// Takes over the UART. False when its registers cannot be mapped.
pub fn init(kind: UartKind, base: HostPhys, len: u64) -> bool {
    let Ok(va) = hyp::map_device(base, len) else {
        return false;
    };
    // SAFETY: the registers are mapped for ever; the core hides the device from every domain.
    UART.call_once(|| unsafe { Uart::new(kind, va) });
    true
}

/// The UART, once found.
pub fn uart() -> Option<&'static Uart> {
    UART.get()
}

/// The UART's interrupt number, once it has one.
static INTERRUPT: AtomicU32 = AtomicU32::new(0);

/// Lets the UART interrupt when input arrives.
pub fn enable_input(intid: u32) {
    INTERRUPT.store(intid, Relaxed);
    if let Some(uart) = UART.get() {
        uart.enable_receive_interrupt();
    }
}

/// An interrupt of the hypervisor's own came: take the input.
pub fn interrupt(hv: &'static Hypervisor<Aarch64>, intid: u32) {
    if intid != INTERRUPT.load(Relaxed) {
        return;
    }
    if let Some(uart) = UART.get() {
        uart.clear_receive_interrupt();
        while let Some(byte) = uart.get() {
            hv.console.input(hv, byte);
        }
    }
}

/// Writes bytes as they are.
pub fn write(text: &[u8]) {
    let _held = LOCK.lock();
    write_raw(text);
}

fn write_raw(text: &[u8]) {
    if let Some(uart) = UART.get() {
        for byte in text {
            uart.put(*byte);
        }
    }
}

/// Output without a lock, for the last words of a dying hypervisor.
pub struct Raw;

impl fmt::Write for Raw {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        write_raw(s.as_bytes());
        Ok(())
    }
}

/// The hypervisor whose console takes messages, once there is one.
static HV: Once<&'static Hypervisor<Aarch64>> = Once::new();

/// From now on messages go through the core's console: levels, ring buffer.
pub fn hand_over(hv: &'static Hypervisor<Aarch64>) {
    HV.call_once(|| hv);
}

struct Logger;

impl log::Log for Logger {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        if let Some(hv) = HV.get() {
            hv.console.print_record(&hv.hal, record);
            return;
        }
        let _held = LOCK.lock();
        let _ = fmt::write(&mut Raw, format_args!("(XEN) {}\r\n", record.args()));
    }

    fn flush(&self) {}
}

/// Sends the `log` macros to the console.
pub fn init_log() {
    static LOGGER: Logger = Logger;
    if log::set_logger(&LOGGER).is_ok() {
        log::set_max_level(log::LevelFilter::Debug);
    }
}
