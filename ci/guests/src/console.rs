//! Where result lines go: the PL011 that the hypervisor emulates when the architecture finds one,
//! else the hypervisor's console by hypercall, else the domain's PV console ring; without a hypervisor what
//! the architecture has.
//! A line is put together first and handed over whole, so that CPUs do not mix theirs.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use crate::arch;
use crate::xen;

const LINE: usize = 400;
const UART_DATA: u64 = 0x00;
const UART_FLAGS: u64 = 0x18;
const UART_FULL: u32 = 1 << 5;
const RING_OUT: u64 = 1024;
const RING_OUT_BYTES: u32 = 2048;
const RING_OUT_CONSUMER: u64 = 3080;
const RING_OUT_PRODUCER: u64 = 3084;

/// Kinds of console, as `KIND` holds them.
const BY_HYPERCALL: u32 = 0;
const BY_UART: u32 = 1;
const BY_RING: u32 = 2;
const BY_FUNCTION: u32 = 3;

static KIND: AtomicU32 = AtomicU32::new(BY_HYPERCALL);
static BASE: AtomicU64 = AtomicU64::new(0);
static PORT: AtomicU32 = AtomicU32::new(0);
static LOCK: AtomicU32 = AtomicU32::new(0);

/// A line under construction; what does not fit is cut off.
struct Text {
    bytes: [u8; LINE],
    used: usize,
}

impl Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes().take(LINE - 1 - self.used) {
            self.bytes[self.used] = byte;
            self.used += 1;
        }
        Ok(())
    }
}

/// Picks the console; `uart` is the address of an emulated PL011 that is meant to be it.
pub(crate) fn init(uart: Option<u64>) {
    if let Some(uart) = uart {
        BASE.store(uart, Ordering::Relaxed);
        KIND.store(BY_UART, Ordering::Relaxed);
    } else if xen::console_write(b"") < 0
        && let Some((address, port)) = arch::console_ring()
    {
        BASE.store(address, Ordering::Relaxed);
        PORT.store(port, Ordering::Relaxed);
        KIND.store(BY_RING, Ordering::Relaxed);
    }
}

/// Makes a function of the architecture's the console.
#[cfg(target_arch = "riscv64")]
pub(crate) fn by(write: fn(&[u8])) {
    BASE.store(write as usize as u64, Ordering::Relaxed);
    KIND.store(BY_FUNCTION, Ordering::Relaxed);
}

/// Prints one line.
pub fn line(arguments: fmt::Arguments) {
    let mut text = Text {
        bytes: [0; LINE],
        used: 0,
    };
    let _ = text.write_fmt(arguments);
    text.bytes[text.used] = b'\n';
    let bytes = &text.bytes[..text.used + 1];
    match KIND.load(Ordering::Relaxed) {
        BY_UART => locked(|| uart_write(bytes)),
        BY_RING => locked(|| ring_write(bytes)),
        BY_FUNCTION => locked(|| function_write(bytes)),
        _ => {
            xen::console_write(bytes);
        }
    }
}

fn locked(f: impl FnOnce()) {
    while LOCK.swap(1, Ordering::Acquire) != 0 {
        arch::relax();
    }
    f();
    LOCK.store(0, Ordering::Release);
}

fn function_write(bytes: &[u8]) {
    let function = BASE.load(Ordering::Relaxed) as usize;
    // SAFETY: only `by` has this kind of console, and stores a function of this type.
    let function: fn(&[u8]) = unsafe { core::mem::transmute(function) };
    function(bytes);
}

fn uart_write(bytes: &[u8]) {
    let base = BASE.load(Ordering::Relaxed);
    for &byte in bytes {
        if byte == b'\n' {
            uart_byte(base, b'\r');
        }
        uart_byte(base, byte);
    }
}

fn uart_byte(base: u64, byte: u8) {
    while arch::read32(base + UART_FLAGS) & UART_FULL != 0 {
        arch::relax();
    }
    arch::write32(base + UART_DATA, u32::from(byte));
}

fn ring_write(bytes: &[u8]) {
    let base = BASE.load(Ordering::Relaxed);
    let port = PORT.load(Ordering::Relaxed);
    for &byte in bytes {
        let producer = arch::read32(base + RING_OUT_PRODUCER);
        while producer.wrapping_sub(arch::read32(base + RING_OUT_CONSUMER)) >= RING_OUT_BYTES {
            xen::event::send(port);
            xen::sched::yield_now();
        }
        arch::write8(base + RING_OUT + u64::from(producer % RING_OUT_BYTES), byte);
        fence(Ordering::SeqCst);
        arch::write32(base + RING_OUT_PRODUCER, producer.wrapping_add(1));
    }
    xen::event::send(port);
}
