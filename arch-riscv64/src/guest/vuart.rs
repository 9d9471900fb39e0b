//! An emulated NS16550A UART (PC16550D data sheet) on the hypervisor's console.
//!
//! Pure state: what the guest writes comes out as bytes to print, what is typed waits in a short queue. Speed and format are
//! taken and mean nothing.

use xenolith_arch_common::Input;

/// Bytes of its registers, one each.
pub const SIZE: u64 = 0x100;
const DATA: u64 = 0;
const INTERRUPT_ENABLE: u64 = 1;
/// FIFO control when written.
const INTERRUPT_IDENT: u64 = 2;
const LINE_CONTROL: u64 = 3;
const MODEM_CONTROL: u64 = 4;
const LINE_STATUS: u64 = 5;
const MODEM_STATUS: u64 = 6;
const SCRATCH: u64 = 7;

const RECEIVE: u8 = 1 << 0;
const TRANSMIT: u8 = 1 << 1;
/// Line control: the first two registers are the divisor's.
const DIVISOR: u8 = 1 << 7;
const FIFO_ON: u8 = 1 << 0;
const FIFO_CLEAR_RECEIVED: u8 = 1 << 1;
/// Modem control: outputs come back as inputs.
const LOOP: u8 = 1 << 4;

/// What a register access leads to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Effect {
    /// What a read gives.
    pub value: u8,
    /// A byte to print.
    pub print: Option<u8>,
}

/// The device's state.
#[derive(Debug)]
pub struct VUart {
    input: Input,
    enabled: u8,
    /// The transmitter became empty, and nobody was told yet.
    sent: bool,
    fifo: u8,
    line_control: u8,
    modem_control: u8,
    scratch: u8,
    divisor: [u8; 2],
}

impl Default for VUart {
    fn default() -> Self {
        Self {
            input: Input::default(),
            enabled: 0,
            sent: false,
            fifo: 0,
            line_control: 3,
            modem_control: 0,
            scratch: 0,
            divisor: [1, 0],
        }
    }
}

impl VUart {
    /// Whether it interrupts.
    #[must_use]
    pub fn line(&self) -> bool {
        let received = self.enabled & RECEIVE != 0 && !self.input.is_empty();
        received || self.enabled & TRANSMIT != 0 && self.sent
    }

    /// Something was typed.
    pub fn receive(&mut self, byte: u8) {
        self.input.put(byte);
    }

    /// Which interrupt waits, and whether FIFOs are on. To be told of an empty transmitter is to have taken note.
    fn identify(&mut self) -> u8 {
        let fifos = if self.fifo & FIFO_ON != 0 { 0xc0 } else { 0 };
        let cause = if self.enabled & RECEIVE != 0 && !self.input.is_empty() {
            4
        } else if self.enabled & TRANSMIT != 0 && self.sent {
            self.sent = false;
            2
        } else {
            1
        };
        fifos | cause
    }

    fn modem_status(&self) -> u8 {
        if self.modem_control & LOOP == 0 {
            return 0xb0;
        }
        // RTS, DTR and the two outputs come back as CTS, DSR, RI and DCD.
        let out = self.modem_control;
        (out & 2) << 3 | (out & 1) << 5 | (out & 4) << 4 | (out & 8) << 4
    }

    /// A read of a register.
    pub fn read(&mut self, offset: u64) -> Effect {
        let divisor = self.line_control & DIVISOR != 0;
        let [low, high] = self.divisor;
        let value = match offset {
            DATA if divisor => low,
            INTERRUPT_ENABLE if divisor => high,
            DATA => self.input.take(),
            INTERRUPT_ENABLE => self.enabled,
            INTERRUPT_IDENT => self.identify(),
            LINE_CONTROL => self.line_control,
            MODEM_CONTROL => self.modem_control,
            // The transmitter is always empty.
            LINE_STATUS => 0x60 | u8::from(!self.input.is_empty()),
            MODEM_STATUS => self.modem_status(),
            SCRATCH => self.scratch,
            _ => 0,
        };
        Effect { value, print: None }
    }

    /// A write of a register.
    pub fn write(&mut self, offset: u64, value: u8) -> Effect {
        let mut effect = Effect::default();
        let divisor = self.line_control & DIVISOR != 0;
        match offset {
            DATA if divisor => self.divisor[0] = value,
            INTERRUPT_ENABLE if divisor => self.divisor[1] = value,
            DATA => {
                if self.modem_control & LOOP == 0 {
                    effect.print = Some(value);
                }
                self.sent = true;
            }
            INTERRUPT_ENABLE => {
                // Who asks anew is told that it is empty.
                if value & TRANSMIT != 0 && self.enabled & TRANSMIT == 0 {
                    self.sent = true;
                }
                self.enabled = value & 0xf;
            }
            INTERRUPT_IDENT => {
                self.fifo = value;
                if value & FIFO_CLEAR_RECEIVED != 0 {
                    self.input.clear();
                }
            }
            LINE_CONTROL => self.line_control = value,
            MODEM_CONTROL => self.modem_control = value & 0x1f,
            SCRATCH => self.scratch = value,
            _ => {}
        }
        effect
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_typed_is_read_in_order_and_interrupts_while_it_waits() {
        let mut uart = VUart::default();
        uart.receive(b'a');
        assert!(!uart.line(), "not asked for");
        uart.write(INTERRUPT_ENABLE, RECEIVE);
        uart.receive(b'b');
        assert!(uart.line());
        assert_eq!(uart.read(INTERRUPT_IDENT).value, 4);
        assert_eq!(uart.read(LINE_STATUS).value, 0x61);
        assert_eq!([0; 3].map(|_| uart.read(DATA).value), [b'a', b'b', 0]);
        assert!(!uart.line());
        assert_eq!(uart.read(LINE_STATUS).value, 0x60);
    }

    #[test]
    fn more_than_its_queue_is_dropped() {
        let mut uart = VUart::default();
        (0..200).for_each(|byte| uart.receive(byte));
        let mut taken = 0..;
        while uart.read(LINE_STATUS).value & 1 != 0 {
            assert_eq!(Some(uart.read(DATA).value), taken.next());
        }
        assert!((16..200).contains(&taken.start));
    }

    #[test]
    fn an_empty_transmitter_is_told_once() {
        let mut uart = VUart::default();
        assert_eq!(uart.write(DATA, b'x').print, Some(b'x'));
        assert!(!uart.line());
        uart.write(INTERRUPT_ENABLE, TRANSMIT);
        assert!(uart.line());
        assert_eq!(uart.read(INTERRUPT_IDENT).value, 2);
        assert!(!uart.line());
        assert_eq!(uart.read(INTERRUPT_IDENT).value, 1);
        uart.write(DATA, b'y');
        assert!(uart.line());
        uart.write(INTERRUPT_ENABLE, 0);
        assert!(!uart.line());
    }

    #[test]
    fn the_divisor_hides_data_and_a_loop_prints_nothing() {
        let mut uart = VUart::default();
        uart.write(LINE_CONTROL, 0x83);
        assert_eq!(uart.write(DATA, 12).print, None);
        assert_eq!(uart.read(DATA).value, 12);
        uart.write(LINE_CONTROL, 3);
        uart.write(MODEM_CONTROL, LOOP | 0xa);
        assert_eq!(uart.write(DATA, b'x').print, None);
        // How drivers find out that there is one.
        assert_eq!(uart.read(MODEM_STATUS).value & 0xf0, 0x90);
        uart.write(SCRATCH, 0xa5);
        assert_eq!(uart.read(SCRATCH).value, 0xa5);
        assert_eq!(uart.read(77), Effect::default());
    }
}
