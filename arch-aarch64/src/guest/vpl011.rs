//! An emulated PL011 UART (DDI 0183) on the hypervisor's console, for domains made at boot.
//!
//! Pure state: what the guest writes comes out as bytes to print, what is typed waits in a short queue. Only the
//! registers that the SBSA subset and Linux's driver use do something; speed and format are taken and mean nothing.

use xenolith_arch_common::Input;

const DR: u32 = 0x00;
const RSR: u32 = 0x04;
const FR: u32 = 0x18;
const IBRD: u32 = 0x24;
const FBRD: u32 = 0x28;
const LCR_H: u32 = 0x2c;
const CR: u32 = 0x30;
const IFLS: u32 = 0x34;
const IMSC: u32 = 0x38;
const RIS: u32 = 0x3c;
const MIS: u32 = 0x40;
const ICR: u32 = 0x44;
const PERIPH_ID: u32 = 0xfe0;

const FR_RXFE: u32 = 1 << 4;
const FR_RXFF: u32 = 1 << 6;
const FR_TXFE: u32 = 1 << 7;
const INT_RX: u32 = 1 << 4;
const INT_TX: u32 = 1 << 5;
const INT_RT: u32 = 1 << 6;
/// The identification bytes of a PL011, revision 3, and of a PrimeCell.
const ID: [u32; 8] = [0x11, 0x10, 0x34, 0x00, 0x0d, 0xf0, 0x05, 0xb1];

/// What a register access leads to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Effect {
    /// What a read gives.
    pub value: u32,
    /// A byte to print.
    pub print: Option<u8>,
    /// The interrupt line afterwards.
    pub line: bool,
}

/// The device's state.
#[derive(Debug)]
pub struct Vpl011 {
    input: Input,
    mask: u32,
    /// The transmit interrupt was raised by a byte and not cleared yet.
    sent: bool,
    control: u32,
    settings: [u32; 4],
}

impl Default for Vpl011 {
    fn default() -> Self {
        Self {
            input: Input::default(),
            mask: 0,
            sent: false,
            control: 0x301, // on, both ways
            settings: [0; 4],
        }
    }
}

impl Vpl011 {
    fn raw(&self) -> u32 {
        let receive = if self.input.is_empty() {
            0
        } else {
            INT_RX | INT_RT
        };
        receive | if self.sent { INT_TX } else { 0 }
    }

    fn line(&self) -> bool {
        self.raw() & self.mask != 0
    }

    fn effect(&self, value: u32) -> Effect {
        Effect {
            value,
            print: None,
            line: self.line(),
        }
    }

    /// A byte was typed. False when the queue is full; the interrupt line is that of [`Vpl011::asserted`] then.
    pub fn receive(&mut self, byte: u8) -> bool {
        self.input.put(byte)
    }

    /// Whether the interrupt line is asserted.
    pub fn asserted(&self) -> bool {
        self.line()
    }

    /// The guest reads the register at `offset`.
    pub fn read(&mut self, offset: u32) -> Effect {
        let value = match offset & !3 {
            DR => u32::from(self.input.take()),
            FR => {
                let receive = if self.input.is_empty() {
                    FR_RXFE
                } else if self.input.is_full() {
                    FR_RXFF
                } else {
                    0
                };
                FR_TXFE | receive
            }
            IBRD | FBRD | LCR_H | IFLS => self.setting(offset).copied().unwrap_or(0),
            CR => self.control,
            IMSC => self.mask,
            RIS => self.raw(),
            MIS => self.raw() & self.mask,
            id if id >= PERIPH_ID => ID
                .get((id as usize - PERIPH_ID as usize) / 4)
                .copied()
                .unwrap_or(0),
            _ => 0,
        };
        self.effect(value)
    }

    /// The guest writes the register at `offset`.
    pub fn write(&mut self, offset: u32, value: u32) -> Effect {
        let mut print = None;
        match offset & !3 {
            DR => {
                print = Some(value as u8);
                self.sent = true;
            }
            IBRD | FBRD | LCR_H | IFLS => {
                if let Some(setting) = self.setting(offset) {
                    *setting = value & 0xffff;
                }
            }
            CR => self.control = value & 0xffff,
            IMSC => self.mask = value & 0x7ff,
            ICR => self.sent &= value & INT_TX == 0,
            RSR => {}
            _ => {}
        }
        Effect {
            print,
            ..self.effect(0)
        }
    }

    fn setting(&mut self, offset: u32) -> Option<&mut u32> {
        self.settings.get_mut(match offset & !3 {
            IBRD => 0,
            FBRD => 1,
            LCR_H => 2,
            _ => 3,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_written_byte_is_printed_and_raises_the_transmit_interrupt() {
        let mut uart = Vpl011::default();
        uart.write(IMSC, INT_TX);
        let effect = uart.write(DR, u32::from(b'x'));
        assert_eq!((effect.print, effect.line), (Some(b'x'), true));
        assert!(!uart.write(ICR, INT_TX).line);
    }

    #[test]
    fn typed_bytes_come_in_order_and_the_line_falls_with_the_last() {
        let mut uart = Vpl011::default();
        uart.write(IMSC, INT_RX | INT_RT);
        assert!(!uart.asserted());
        let mut room = 0;
        while uart.receive(room) {
            room += 1;
        }
        assert!(room >= 32, "a PL011 has so many");
        assert_eq!(uart.read(FR).value & FR_RXFF, FR_RXFF);
        for byte in 0..room {
            assert!(uart.asserted());
            assert_eq!(uart.read(DR).value, u32::from(byte));
        }
        assert!(!uart.asserted());
        assert_eq!(uart.read(FR).value & FR_RXFE, FR_RXFE);
    }

    #[test]
    fn the_identification_is_that_of_a_pl011() {
        let mut uart = Vpl011::default();
        assert_eq!(uart.read(PERIPH_ID).value, 0x11);
        assert_eq!(uart.read(0xffc).value, 0xb1);
        assert_eq!(uart.read(0x800).value, 0);
    }
}
