//! Cadence UART as in Xilinx Zynq and ZynqMP (UG1085, UG1087 module UART).

use tock_registers::{
    interfaces::{ReadWriteable, Readable, Writeable},
    register_bitfields, register_structs,
    registers::{ReadOnly, ReadWrite, WriteOnly},
};

register_bitfields![u32,
    CR [
        RXEN OFFSET(2) NUMBITS(1) [], RXDIS OFFSET(3) NUMBITS(1) [],
        TXEN OFFSET(4) NUMBITS(1) [], TXDIS OFFSET(5) NUMBITS(1) [],
    ],
    SR [ RXEMPTY OFFSET(1) NUMBITS(1) [], TXFULL OFFSET(4) NUMBITS(1) [] ],
    INT [ RTRIG OFFSET(0) NUMBITS(1) [], TIMEOUT OFFSET(8) NUMBITS(1) [] ],
];

register_structs! {
    Registers {
        (0x00 => control: ReadWrite<u32, CR::Register>),
        (0x04 => _mode),
        (0x08 => ier: WriteOnly<u32, INT::Register>),
        (0x0c => idr: WriteOnly<u32>),
        (0x10 => _imr),
        (0x14 => isr: ReadWrite<u32, INT::Register>),
        (0x18 => _baud),
        (0x1c => rtout: ReadWrite<u32>),
        (0x20 => rtrig: ReadWrite<u32>),
        (0x24 => _modem),
        (0x2c => sr: ReadOnly<u32, SR::Register>),
        (0x30 => fifo: ReadWrite<u32>),
        (0x34 => @END),
    }
}

/// A Cadence UART.
pub struct Cadence(&'static Registers);

// SAFETY: every access is one volatile register access; callers serialise whole messages with the console's lock.
unsafe impl Sync for Cadence {}
// SAFETY: as above.
unsafe impl Send for Cadence {}

impl Cadence {
    /// # Safety
    /// As [`crate::Uart::new`].
    pub(crate) unsafe fn new(base: *mut u8) -> Self {
        // SAFETY: the caller promises that the registers are mapped there for ever; all access is volatile.
        let registers = unsafe { &*base.cast::<Registers>() };
        // After reset both ways are off, and firmware that had nothing to say left them so.
        registers
            .control
            .modify(CR::RXEN::SET + CR::RXDIS::CLEAR + CR::TXEN::SET + CR::TXDIS::CLEAR);
        Self(registers)
    }

    pub(crate) fn put(&self, byte: u8) {
        while self.0.sr.is_set(SR::TXFULL) {}
        self.0.fifo.set(u32::from(byte));
    }

    pub(crate) fn get(&self) -> Option<u8> {
        if self.0.sr.is_set(SR::RXEMPTY) {
            return None;
        }
        Some(self.0.fifo.get() as u8)
    }

    pub(crate) fn enable_receive_interrupt(&self) {
        self.0.idr.set(0x1fff);
        self.0.rtrig.set(1);
        self.0.rtout.set(10);
        self.0.isr.set(0x1fff);
        self.0.ier.write(INT::RTRIG::SET + INT::TIMEOUT::SET);
    }

    pub(crate) fn clear_receive_interrupt(&self) {
        self.0.isr.write(INT::RTRIG::SET + INT::TIMEOUT::SET);
    }
}
