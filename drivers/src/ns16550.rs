//! The 16550 UART (PC16550D data sheet): polled output, interrupt-driven input, memory-mapped.

/// A 16550.
pub struct Ns16550 {
    base: *mut u8,
    shift: u8,
}

// SAFETY: the pointer is to device registers that stay mapped; every access is one volatile read or write.
unsafe impl Send for Ns16550 {}
// SAFETY: as above; callers serialise whole messages with the console's lock.
unsafe impl Sync for Ns16550 {}

const DATA: usize = 0;
const INTERRUPT_ENABLE: usize = 1;
const INTERRUPT_IDENT: usize = 2;
const LINE_STATUS: usize = 5;
const DATA_READY: u8 = 1 << 0;
const TRANSMIT_EMPTY: u8 = 1 << 5;

impl Ns16550 {
    /// # Safety
    /// As [`crate::Uart::new`].
    pub(crate) unsafe fn new(base: *mut u8, shift: u8) -> Self {
        Self {
            base,
            shift: shift.min(3),
        }
    }

    fn read(&self, register: usize) -> u8 {
        // SAFETY: `new`'s caller promised eight registers at this distance.
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
        // SAFETY: `new`'s caller promised eight registers at this distance.
        unsafe {
            let at = self.base.add(register << self.shift);
            if self.shift == 2 {
                at.cast::<u32>().write_volatile(u32::from(value));
            } else {
                at.write_volatile(value);
            }
        }
    }

    pub(crate) fn put(&self, byte: u8) {
        while self.read(LINE_STATUS) & TRANSMIT_EMPTY == 0 {}
        self.write(DATA, byte);
    }

    pub(crate) fn get(&self) -> Option<u8> {
        (self.read(LINE_STATUS) & DATA_READY != 0).then(|| self.read(DATA))
    }

    pub(crate) fn enable_receive_interrupt(&self) {
        self.write(INTERRUPT_ENABLE, 1);
    }

    pub(crate) fn clear_receive_interrupt(&self) {
        self.read(INTERRUPT_IDENT);
    }
}
