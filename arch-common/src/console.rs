//! The machine's console: one UART, or what firmware offers until one is found, and the `log` macros on it.
//!
//! Output waits for the device until [`buffer`] is called, which an architecture does once the device's interrupts are taken;
//! from then on what the device does not take at once waits in a ring. What a dying hypervisor says goes past all that, after
//! the ring.

use core::{
    fmt,
    sync::atomic::{
        AtomicBool,
        Ordering::{Acquire, Release},
    },
};

use spin::Once;
use xenolith_drivers::{Transmitter, Uart};
use xenolith_hal::sync::{Mutex, Rank};

use crate::transmit::Ring;

/// Sends one byte.
pub type Put = fn(u8);
/// Prints a message through the core's console: levels, ring buffer.
pub type Print = fn(&log::Record<'_>);

static UART: Once<Uart> = Once::new();
static FALLBACK: Once<Put> = Once::new();
static PRINT: Once<Print> = Once::new();
static RING: Mutex<Ring> = Mutex::new(Rank::Console, Ring::new());
static BUFFERED: AtomicBool = AtomicBool::new(false);

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
    let mut ring = RING.lock();
    match buffered() {
        Some(device) => ring.write(device, text),
        None => write_raw(text),
    }
}

fn buffered() -> Option<&'static dyn Transmitter> {
    if BUFFERED.load(Acquire) {
        UART.get()?.transmitter()
    } else {
        None
    }
}

/// Output need not wait for the device any more: its interrupts come to [`interrupt`], from now on or soon.
pub fn buffer() {
    BUFFERED.store(true, Release);
}

/// Sends what waits, and waits for the device from now on: the machine goes off.
pub fn flush() {
    catch_up();
    BUFFERED.store(false, Release);
}

/// Sends what waits, unless somebody is at it, who may be the one that was interrupted.
fn catch_up() {
    if let Some(device) = buffered()
        && let Some(mut ring) = RING.try_lock()
    {
        ring.flush(device);
    }
}

/// The device interrupted: takes what was typed and sends what waits. No lock is held.
pub fn interrupt(mut typed: impl FnMut(u8)) {
    /// A device that never has enough is left alone.
    const MOST: usize = 4096;
    let Some(uart) = UART.get() else { return };
    let Some(device) = uart.transmitter() else {
        uart.clear_receive_interrupt();
        while let Some(byte) = uart.get() {
            typed(byte);
        }
        return;
    };
    // Until no cause is left: the line may signal by edges.
    for _ in 0..MOST {
        if !device.take_interrupt() {
            break;
        }
        while let Some(byte) = uart.get() {
            typed(byte);
        }
        RING.lock().send(device);
    }
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
        catch_up();
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
        let _held = RING.lock();
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
