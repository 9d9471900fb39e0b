//! Arm PrimeCell UART PL011 (DDI 0183): polled output, interrupt-driven input.

use tock_registers::{
    interfaces::{ReadWriteable, Readable, Writeable},
    register_bitfields, register_structs,
    registers::{ReadOnly, ReadWrite, WriteOnly},
};

register_bitfields![u32,
    DR [ DATA OFFSET(0) NUMBITS(8) [], ERROR OFFSET(8) NUMBITS(4) [] ],
    FR [ RXFE OFFSET(4) NUMBITS(1) [], TXFF OFFSET(5) NUMBITS(1) [] ],
    INT [ RX OFFSET(4) NUMBITS(1) [], TX OFFSET(5) NUMBITS(1) [], RT OFFSET(6) NUMBITS(1) [] ],
];

register_structs! {
    Registers {
        (0x00 => dr: ReadWrite<u32, DR::Register>),
        (0x04 => _reserved0),
        (0x18 => fr: ReadOnly<u32, FR::Register>),
        (0x1c => _reserved1),
        (0x38 => imsc: ReadWrite<u32, INT::Register>),
        (0x3c => _reserved2),
        (0x44 => icr: WriteOnly<u32, INT::Register>),
        (0x48 => @END),
    }
}

/// A PL011.
pub struct Pl011(&'static Registers);

// SAFETY: every access is one volatile register access; callers serialise whole messages with the console's lock.
unsafe impl Sync for Pl011 {}
// SAFETY: as above.
unsafe impl Send for Pl011 {}

impl Pl011 {
    /// # Safety
    /// As [`crate::Uart::new`].
    pub(crate) unsafe fn new(base: *mut u8) -> Self {
        // SAFETY: the caller promises that the registers are mapped there for ever; all access is volatile.
        Self(unsafe { &*base.cast::<Registers>() })
    }

    pub(crate) fn put(&self, byte: u8) {
        while self.0.fr.is_set(FR::TXFF) {}
        self.0.dr.write(DR::DATA.val(u32::from(byte)));
    }

    pub(crate) fn get(&self) -> Option<u8> {
        if self.0.fr.is_set(FR::RXFE) {
            return None;
        }
        Some(self.0.dr.read(DR::DATA) as u8)
    }

    pub(crate) fn enable_receive_interrupt(&self) {
        self.0.icr.write(INT::RX::SET + INT::RT::SET);
        self.0
            .imsc
            .modify(INT::RX::SET + INT::RT::SET + INT::TX::CLEAR);
    }

    pub(crate) fn clear_receive_interrupt(&self) {
        self.0.icr.write(INT::RX::SET + INT::RT::SET);
    }
}
