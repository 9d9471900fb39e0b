//! The machine's console: one UART, or what firmware offers until one is found, and the `log` macros on it.

use core::fmt;

use spin::Once;
use xenolith_drivers::Uart;
use xenolith_hal::sync::{Mutex, Rank};

/// Sends one byte.
pub type Put = fn(u8);
/// Prints a message through the core's console: levels, ring buffer.
pub type Print = fn(&log::Record<'_>);

static UART: Once<Uart> = Once::new();
static FALLBACK: Once<Put> = Once::new();
static PRINT: Once<Print> = Once::new();
static LOCK: Mutex<()> = Mutex::new(Rank::Console, ());

/// The UART that all output goes to from now on.
pub fn set_uart(uart: Uart) {
    UART.call_once(|| uart);
}

/// The UART, once it is known.
pub fn uart() -> Option<&'static Uart> {
    UART.get()
}

/// Where output goes while there is no UART.
pub fn set_fallback(put: Put) {
    FALLBACK.call_once(|| put);
}

/// From now on messages go through the core's console.
pub fn hand_over(print: Print) {
    PRINT.call_once(|| print);
}

/// Writes bytes as they are.
pub fn write(text: &[u8]) {
    let _held = LOCK.lock();
    write_raw(text);
}

fn write_raw(text: &[u8]) {
    for byte in text {
        if let Some(uart) = UART.get() {
            uart.put(*byte);
        } else if let Some(put) = FALLBACK.get() {
            put(*byte);
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

struct Logger;

impl log::Log for Logger {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        if let Some(print) = PRINT.get() {
            print(record);
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
