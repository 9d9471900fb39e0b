//! Output that waits until the console's device can take it.
//!
//! What the device takes at once never waits. The device is asked to interrupt only while something waits; when the ring is
//! full, the writer waits for the device itself, so nothing is lost.

use xenolith_drivers::Transmitter;

/// Bytes that may wait: a screen or two.
const BYTES: usize = 8192;

/// Bytes on their way to the device.
pub(crate) struct Ring {
    bytes: [u8; BYTES],
    /// Index of the oldest one.
    first: usize,
    waiting: usize,
    /// The device was asked to interrupt.
    asked: bool,
}

impl Ring {
    pub(crate) const fn new() -> Self {
        Self {
            bytes: [0; BYTES],
            first: 0,
            waiting: 0,
            asked: false,
        }
    }

    /// Adds text, and sends what the device takes now.
    pub(crate) fn write(&mut self, device: &dyn Transmitter, text: &[u8]) {
        for byte in text {
            while self.waiting == BYTES {
                self.load(device);
            }
            if let Some(place) = self.bytes.get_mut((self.first + self.waiting) % BYTES) {
                *place = *byte;
                self.waiting += 1;
            }
        }
        self.send(device);
    }

    /// Sends what the device takes now; it interrupts when it can take the rest.
    pub(crate) fn send(&mut self, device: &dyn Transmitter) {
        while self.waiting != 0 && self.load(device) {}
        self.ask(device);
    }

    /// Sends everything, as long as that takes.
    pub(crate) fn flush(&mut self, device: &dyn Transmitter) {
        while self.waiting != 0 {
            if !self.load(device) {
                core::hint::spin_loop();
            }
        }
        self.ask(device);
    }

    fn ask(&mut self, device: &dyn Transmitter) {
        let ask = self.waiting != 0;
        if ask != self.asked {
            self.asked = ask;
            device.set_transmit_interrupt(ask);
        }
    }

    /// Gives the device what it has room for; false when that is nothing.
    fn load(&mut self, device: &dyn Transmitter) -> bool {
        let count = device.room().min(self.waiting);
        for _ in 0..count {
            device.push(self.bytes.get(self.first).copied().unwrap_or(0));
            self.first = (self.first + 1) % BYTES;
        }
        self.waiting -= count;
        count != 0
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::{cell::Cell, cell::RefCell, vec::Vec};

    use proptest::prelude::*;

    use super::*;

    /// A device that is busy for a while after each load.
    struct Device {
        sent: RefCell<Vec<u8>>,
        room: Cell<usize>,
        /// How often it is asked before it is empty again.
        slow: usize,
        busy: Cell<usize>,
        interrupts: Cell<bool>,
    }

    impl Device {
        fn new(slow: usize) -> Self {
            Self {
                sent: RefCell::new(Vec::new()),
                room: Cell::new(16),
                slow,
                busy: Cell::new(0),
                interrupts: Cell::new(false),
            }
        }
    }

    impl Transmitter for Device {
        fn take_interrupt(&self) -> bool {
            false
        }

        fn room(&self) -> usize {
            if self.room.get() < 16 {
                if self.busy.get() > 0 {
                    self.busy.set(self.busy.get() - 1);
                    return 0;
                }
                self.room.set(16);
            }
            16
        }

        fn push(&self, byte: u8) {
            let room = self.room.get().checked_sub(1).expect("there is room");
            self.room.set(room);
            self.busy.set(self.slow);
            self.sent.borrow_mut().push(byte);
        }

        fn set_transmit_interrupt(&self, on: bool) {
            self.interrupts.set(on);
        }
    }

    #[test]
    fn what_a_fast_device_takes_never_waits() {
        let (device, mut ring) = (Device::new(0), Ring::new());
        ring.write(&device, &[7; 100]);
        assert_eq!(device.sent.borrow().len(), 100);
        assert!(!device.interrupts.get());
    }

    #[test]
    fn the_rest_waits_for_interrupts() {
        let (device, mut ring) = (Device::new(1), Ring::new());
        ring.write(&device, &[7; 40]);
        assert_eq!(device.sent.borrow().len(), 16);
        assert!(device.interrupts.get());
        ring.send(&device);
        assert_eq!(device.sent.borrow().len(), 32);
        assert!(device.interrupts.get());
        ring.send(&device);
        assert_eq!(device.sent.borrow().len(), 40);
        assert!(!device.interrupts.get(), "nothing waits any more");
    }

    #[test]
    fn a_full_ring_waits_for_the_device() {
        let (device, mut ring) = (Device::new(3), Ring::new());
        let text: Vec<u8> = (0..BYTES + 500).map(|n| n as u8).collect();
        ring.write(&device, &text);
        ring.flush(&device);
        assert_eq!(*device.sent.borrow(), text);
    }

    proptest! {
        #[test]
        fn everything_is_sent_once_and_in_order(
            slow in 0usize..5,
            steps in prop::collection::vec((0usize..3000, 0u8..4), 1..30),
        ) {
            let (device, mut ring) = (Device::new(slow), Ring::new());
            let mut all = Vec::new();
            for (length, then) in steps {
                let text: Vec<u8> = (0..length).map(|n| (n + all.len()) as u8).collect();
                ring.write(&device, &text);
                all.extend(text);
                match then {
                    0 => ring.flush(&device),
                    1 => ring.send(&device),
                    _ => {}
                }
                prop_assert_eq!(device.interrupts.get(), ring.waiting != 0);
            }
            ring.flush(&device);
            prop_assert_eq!(&*device.sent.borrow(), &all);
        }
    }
}
