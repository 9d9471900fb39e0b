//! The 16550 UART (PC16550D data sheet): output polled or by interrupt, input by interrupt, memory-mapped or, on PCs, at I/O
//! ports.

use crate::uart::Transmitter;

/// How the eight registers are reached.
pub trait Registers {
    /// Reads one.
    fn read(&self, register: usize) -> u8;
    /// Writes one.
    fn write(&self, register: usize, value: u8);
}

/// Registers in memory, `1 << shift` bytes apart.
pub struct Mapped {
    base: *mut u8,
    shift: u8,
}

// SAFETY: the pointer is to device registers that stay mapped; every access is one volatile read or write.
unsafe impl Send for Mapped {}
// SAFETY: as above; callers serialise whole messages with the console's lock.
unsafe impl Sync for Mapped {}

impl Registers for Mapped {
    fn read(&self, register: usize) -> u8 {
        // SAFETY: `Ns16550::new`'s caller promised eight registers at this distance.
        unsafe {
            let at = self.base.add(register << self.shift);
            if self.shift == 2 {
                at.cast::<u32>().read_volatile() as u8
            } else {
                at.read_volatile()
            }
        }
    }

    fn write(&self, register: usize, value: u8) {
        // SAFETY: `Ns16550::new`'s caller promised eight registers at this distance.
        unsafe {
            let at = self.base.add(register << self.shift);
            if self.shift == 2 {
                at.cast::<u32>().write_volatile(u32::from(value));
            } else {
                at.write_volatile(value);
            }
        }
    }
}

/// Registers at I/O ports, one each.
#[cfg(target_arch = "x86_64")]
pub struct Ports(u16);

#[cfg(target_arch = "x86_64")]
impl Registers for Ports {
    fn read(&self, register: usize) -> u8 {
        let value: u8;
        // SAFETY: `Ns16550::at_ports`' caller promised eight ports of the device.
        unsafe {
            core::arch::asm!("in al, dx", in("dx") self.0 + register as u16, out("al") value, options(nomem, nostack, preserves_flags));
        }
        value
    }

    fn write(&self, register: usize, value: u8) {
        // SAFETY: `Ns16550::at_ports`' caller promised eight ports of the device.
        unsafe {
            core::arch::asm!("out dx, al", in("dx") self.0 + register as u16, in("al") value, options(nomem, nostack, preserves_flags));
        }
    }
}

/// A 16550.
pub struct Ns16550<R = Mapped>(R);

const DATA: usize = 0;
const INTERRUPT_ENABLE: usize = 1;
const INTERRUPT_IDENT: usize = 2;
const LINE_STATUS: usize = 5;
/// Interrupt enable: data came; the transmitter is empty.
const RECEIVE: u8 = 1 << 0;
const TRANSMIT: u8 = 1 << 1;
/// Interrupt identification: none waits.
const NONE_WAITS: u8 = 1 << 0;
/// Bytes that an empty transmitter takes at once.
const FIFO: usize = 16;
const DATA_READY: u8 = 1 << 0;
const TRANSMIT_EMPTY: u8 = 1 << 5;

impl Ns16550 {
    /// # Safety
    /// As [`crate::Uart::new`].
    pub(crate) unsafe fn new(base: *mut u8, shift: u8) -> Self {
        Self(Mapped {
            base,
            shift: shift.min(3),
        })
    }
}

#[cfg(target_arch = "x86_64")]
impl Ns16550<Ports> {
    /// Takes a PC's UART over and sets it to 115,200 baud, 8 bits, no parity: no firmware is sure to have done so.
    ///
    /// # Safety
    /// As [`crate::Uart::at_ports`].
    pub(crate) unsafe fn at_ports(base: u16) -> Self {
        const LINE_CONTROL: usize = 3;
        const EIGHT_BITS: u8 = 3;
        const DIVISOR_ACCESS: u8 = 1 << 7;
        const FIFO_CONTROL: usize = 2;
        const FIFOS_ON_AND_EMPTY: u8 = 7;
        const MODEM_CONTROL: usize = 4;
        const READY_AND_INTERRUPTS: u8 = 0xb;
        let uart = Self(Ports(base));
        uart.0.write(INTERRUPT_ENABLE, 0);
        uart.0.write(LINE_CONTROL, DIVISOR_ACCESS | EIGHT_BITS);
        uart.0.write(DATA, 1);
        uart.0.write(INTERRUPT_ENABLE, 0);
        uart.0.write(LINE_CONTROL, EIGHT_BITS);
        uart.0.write(FIFO_CONTROL, FIFOS_ON_AND_EMPTY);
        uart.0.write(MODEM_CONTROL, READY_AND_INTERRUPTS);
        uart
    }
}

impl<R: Registers> Ns16550<R> {
    pub(crate) fn put(&self, byte: u8) {
        while self.0.read(LINE_STATUS) & TRANSMIT_EMPTY == 0 {}
        self.0.write(DATA, byte);
    }

    pub(crate) fn get(&self) -> Option<u8> {
        (self.0.read(LINE_STATUS) & DATA_READY != 0).then(|| self.0.read(DATA))
    }

    pub(crate) fn enable_receive_interrupt(&self) {
        self.0.write(INTERRUPT_ENABLE, RECEIVE);
    }

    pub(crate) fn clear_receive_interrupt(&self) {
        self.0.read(INTERRUPT_IDENT);
    }
}

impl<R: Registers> Transmitter for Ns16550<R> {
    fn take_interrupt(&self) -> bool {
        self.0.read(INTERRUPT_IDENT) & NONE_WAITS == 0
    }

    fn room(&self) -> usize {
        if self.0.read(LINE_STATUS) & TRANSMIT_EMPTY == 0 {
            0
        } else {
            FIFO
        }
    }

    fn push(&self, byte: u8) {
        self.0.write(DATA, byte);
    }

    fn set_transmit_interrupt(&self, on: bool) {
        let transmit = if on { TRANSMIT } else { 0 };
        self.0.write(INTERRUPT_ENABLE, RECEIVE | transmit);
    }
}
