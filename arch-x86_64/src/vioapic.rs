//! The guest's IOAPIC (82093AA datasheet; Intel's I/O APIC as used since): an index and a data register in memory, and an
//! entry for each pin.
//!
//! It is a plain value under its owner's lock. What it asks for comes back as values: the message to send, the pin whose
//! set-up has changed so that the physical interrupt behind it can be bound, masked or unbound. Version 0x11, so there is
//! no EOI register: the end of a level comes from the local APICs ([`VIoApic::eoi`]).

use alloc::{boxed::Box, vec};

use tock_registers::{LocalRegisterCopy, register_bitfields};

use crate::vlapic::{Delivery, Destination, Message, Trigger};

register_bitfields![u64,
    /// A redirection entry.
    ENTRY [
        /// Vector.
        VECTOR OFFSET(0) NUMBITS(8) [],
        /// Delivery mode.
        DELIVERY OFFSET(8) NUMBITS(3) [],
        /// Logical destination.
        LOGICAL OFFSET(11) NUMBITS(1) [],
        /// Delivery status: never pending.
        STATUS OFFSET(12) NUMBITS(1) [],
        /// Active low.
        ACTIVE_LOW OFFSET(13) NUMBITS(1) [],
        /// A level has been taken and its end not yet told.
        REMOTE_IRR OFFSET(14) NUMBITS(1) [],
        /// Level-triggered.
        LEVEL OFFSET(15) NUMBITS(1) [],
        /// Masked.
        MASKED OFFSET(16) NUMBITS(1) [],
        /// Destination.
        DESTINATION OFFSET(56) NUMBITS(8) []
    ]
];

type Entry = LocalRegisterCopy<u64, ENTRY::Register>;

/// Bytes of its registers in memory.
pub const SIZE: u64 = 0x1000;
/// Where PCs have the first one.
pub const DEFAULT_ADDRESS: u64 = 0xfec0_0000;
/// Pins of the usual one.
pub const USUAL_PINS: u8 = 24;
/// The most that the version register can tell.
const MOST_PINS: u8 = 240;

const INDEX: u32 = 0x00;
const DATA: u32 = 0x10;
const REGISTER_ID: u8 = 0x00;
const REGISTER_VERSION: u8 = 0x01;
const REGISTER_ARBITRATION: u8 = 0x02;
const FIRST_ENTRY: u8 = 0x10;
const VERSION: u32 = 0x11;
const WRITABLE: u64 = 0xff00_0000_0001_afff;
const MASKED: u64 = 1 << 16;

/// How a line signals that it is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Polarity {
    /// As ISA has it.
    ActiveHigh,
    /// As PCI has it.
    ActiveLow,
}

/// What the guest has made of a pin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PinSetup {
    /// Global interrupt number.
    pub gsi: u32,
    /// Nothing comes through.
    pub masked: bool,
    /// How it signals.
    pub trigger: Trigger,
    /// When it is up.
    pub polarity: Polarity,
    /// Vector, for the log.
    pub vector: u8,
}

/// What a write asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// A pin's mask, trigger, polarity or vector has changed.
    pub changed: Option<PinSetup>,
    /// The line was up when the pin was unmasked: send this.
    pub message: Option<Message>,
}

/// What the end of a level asks for, for one pin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Global interrupt number: the physical interrupt behind it, if there is one, may come again.
    pub gsi: u32,
    /// The line is still up: send this.
    pub message: Option<Message>,
}

#[derive(Clone, Copy)]
struct Pin {
    entry: Entry,
    up: bool,
}

/// One IOAPIC.
pub struct VIoApic {
    id: u8,
    base_gsi: u32,
    index: u8,
    pins: Box<[Pin]>,
}

impl Pin {
    const RESET: Self = Self {
        entry: Entry::new(MASKED),
        up: false,
    };

    fn trigger(&self) -> Trigger {
        Trigger::from_level(self.entry.is_set(ENTRY::LEVEL))
    }

    fn setup(&self, gsi: u32) -> PinSetup {
        PinSetup {
            gsi,
            masked: self.entry.is_set(ENTRY::MASKED),
            trigger: self.trigger(),
            polarity: if self.entry.is_set(ENTRY::ACTIVE_LOW) {
                Polarity::ActiveLow
            } else {
                Polarity::ActiveHigh
            },
            vector: self.entry.read(ENTRY::VECTOR) as u8,
        }
    }

    fn message(&self) -> Option<Message> {
        let delivery = Delivery::from_bits(self.entry.read(ENTRY::DELIVERY) as u32)?;
        let message = Message {
            vector: self.entry.read(ENTRY::VECTOR) as u8,
            delivery,
            trigger: self.trigger(),
            destination: Destination::from_byte(
                self.entry.read(ENTRY::DESTINATION) as u8,
                self.entry.is_set(ENTRY::LOGICAL),
            ),
        };
        (!message.has_illegal_vector()).then_some(message)
    }

    /// Sends a level if its line is up, it is not masked and the last one has ended.
    fn fire_level(&mut self) -> Option<Message> {
        let held = self.entry.is_set(ENTRY::MASKED) || self.entry.is_set(ENTRY::REMOTE_IRR);
        if !self.up || held || self.trigger() == Trigger::Edge {
            return None;
        }
        let message = self.message()?;
        // Only a message with a vector has an end that would be told.
        if matches!(message.delivery, Delivery::Fixed | Delivery::LowestPriority) {
            self.entry.modify(ENTRY::REMOTE_IRR::SET);
        }
        Some(message)
    }

    /// An edge that comes while the pin is masked is lost, as in hardware.
    fn fire_edge(&self) -> Option<Message> {
        if self.entry.is_set(ENTRY::MASKED) {
            return None;
        }
        self.message()
    }
}

impl VIoApic {
    /// An IOAPIC whose first pin has a global interrupt number, all pins masked. More pins than the version register can
    /// tell are cut.
    #[must_use]
    pub fn new(id: u8, base_gsi: u32, pins: u8) -> Self {
        let pins = usize::from(pins.clamp(1, MOST_PINS));
        Self {
            id,
            base_gsi,
            index: 0,
            pins: vec![Pin::RESET; pins].into_boxed_slice(),
        }
    }

    /// The global interrupt numbers of its pins.
    #[must_use]
    pub fn gsis(&self) -> core::ops::Range<u32> {
        self.base_gsi..self.base_gsi.saturating_add(self.pins.len() as u32)
    }

    fn pin_of(&mut self, gsi: u32) -> Option<&mut Pin> {
        let pin = gsi.checked_sub(self.base_gsi)?;
        self.pins.get_mut(pin as usize)
    }

    /// What the guest has made of a pin.
    #[must_use]
    pub fn setup(&self, gsi: u32) -> Option<PinSetup> {
        let pin = gsi.checked_sub(self.base_gsi)?;
        self.pins.get(pin as usize).map(|pin| pin.setup(gsi))
    }

    /// Reads 32 bits at an offset into the page.
    #[must_use]
    pub fn read(&self, offset: u32) -> u32 {
        match offset {
            INDEX => self.index.into(),
            DATA => self.read_register(self.index),
            _ => 0,
        }
    }

    fn read_register(&self, register: u8) -> u32 {
        match register {
            REGISTER_ID | REGISTER_ARBITRATION => u32::from(self.id & 0xf) << 24,
            REGISTER_VERSION => VERSION | (self.pins.len() as u32 - 1) << 16,
            FIRST_ENTRY.. => {
                let half = register - FIRST_ENTRY;
                let pin = self.pins.get(usize::from(half / 2));
                pin.map_or(0, |pin| (pin.entry.get() >> (32 * (half & 1))) as u32)
            }
            _ => 0,
        }
    }

    /// Writes 32 bits at an offset into the page.
    pub fn write(&mut self, offset: u32, value: u32) -> Written {
        match offset {
            INDEX => self.index = value as u8,
            DATA => return self.write_register(self.index, value),
            _ => {}
        }
        Written::default()
    }

    fn write_register(&mut self, register: u8, value: u32) -> Written {
        if register == REGISTER_ID {
            self.id = (value >> 24) as u8 & 0xf;
        }
        let Some(half) = register.checked_sub(FIRST_ENTRY) else {
            return Written::default();
        };
        let gsi = self.base_gsi.saturating_add(u32::from(half / 2));
        let Some(pin) = self.pins.get_mut(usize::from(half / 2)) else {
            return Written::default();
        };
        let old = pin.entry.get();
        let shift = 32 * (half & 1);
        let written = WRITABLE & 0xffff_ffff << shift;
        let mut entry = Entry::new(old & !written | u64::from(value) << shift & written);
        if !entry.is_set(ENTRY::LEVEL) {
            entry.modify(ENTRY::REMOTE_IRR::CLEAR);
        }
        let before = pin.setup(gsi);
        pin.entry = entry;
        let after = pin.setup(gsi);
        Written {
            changed: (before != after).then_some(after),
            message: pin.fire_level(),
        }
    }

    /// The line of a pin goes up or down (true is up, whatever its polarity).
    pub fn set_line(&mut self, gsi: u32, up: bool) -> Option<Message> {
        let pin = self.pin_of(gsi)?;
        let rising = up && !pin.up;
        pin.up = up;
        match pin.trigger() {
            Trigger::Level => pin.fire_level(),
            Trigger::Edge if rising => pin.fire_edge(),
            Trigger::Edge => None,
        }
    }

    /// The line of a pin goes up and down at once, as a physical edge does.
    pub fn pulse(&mut self, gsi: u32) -> Option<Message> {
        let message = self.set_line(gsi, true);
        self.set_line(gsi, false);
        message
    }

    /// A local APIC tells the end of a level with this vector: each pin that waited for it is told to `ended`.
    pub fn eoi(&mut self, vector: u8, mut ended: impl FnMut(Ended)) {
        for (gsi, pin) in (0..).zip(&mut self.pins) {
            let gsi = self.base_gsi.saturating_add(gsi);
            let waits = pin.entry.is_set(ENTRY::REMOTE_IRR)
                && pin.entry.read(ENTRY::VECTOR) == u64::from(vector);
            if waits {
                pin.entry.modify(ENTRY::REMOTE_IRR::CLEAR);
                let message = pin.fire_level();
                ended(Ended { gsi, message });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;

    const LEVEL_0X51_TO_2: (u32, u32) = (0xa051, 2 << 24);

    fn register(ioapic: &mut VIoApic, register: u8) -> u32 {
        ioapic.write(INDEX, register.into());
        ioapic.read(DATA)
    }

    fn set(ioapic: &mut VIoApic, register: u8, value: u32) -> Written {
        ioapic.write(INDEX, register.into());
        ioapic.write(DATA, value)
    }

    fn set_pin(ioapic: &mut VIoApic, pin: u8, (low, high): (u32, u32)) -> Written {
        set(ioapic, 0x11 + 2 * pin, high);
        set(ioapic, 0x10 + 2 * pin, low)
    }

    fn level() -> Message {
        Message {
            vector: 0x51,
            delivery: Delivery::Fixed,
            trigger: Trigger::Level,
            destination: Destination::Physical(2),
        }
    }

    #[test]
    fn after_reset_all_pins_are_masked() {
        let mut ioapic = VIoApic::new(1, 0, USUAL_PINS);
        assert_eq!(register(&mut ioapic, 0), 1 << 24);
        assert_eq!(register(&mut ioapic, 1), 0x0017_0011);
        for entry in 0..24 {
            assert_eq!(register(&mut ioapic, 0x10 + 2 * entry), 0x1_0000);
            assert_eq!(register(&mut ioapic, 0x11 + 2 * entry), 0);
        }
        assert_eq!(register(&mut ioapic, 0x40), 0);
        assert_eq!(ioapic.set_line(4, true), None);
    }

    #[test]
    fn an_edge_is_sent_once_for_each_rise() {
        let mut ioapic = VIoApic::new(0, 0, 24);
        set_pin(&mut ioapic, 4, (0x0931, 0xff << 24));
        let edge = Message {
            vector: 0x31,
            delivery: Delivery::LowestPriority,
            trigger: Trigger::Edge,
            destination: Destination::Logical(0xff),
        };
        assert_eq!(ioapic.set_line(4, true), Some(edge));
        assert_eq!(ioapic.set_line(4, true), None);
        assert_eq!(ioapic.set_line(4, false), None);
        assert_eq!(ioapic.pulse(4), Some(edge));
        assert_eq!(ioapic.pulse(4), Some(edge));
    }

    #[test]
    fn a_level_waits_for_its_end_and_comes_again_while_the_line_is_up() {
        let mut ioapic = VIoApic::new(0, 16, 8);
        set_pin(&mut ioapic, 3, LEVEL_0X51_TO_2);
        assert_eq!(ioapic.set_line(19, true), Some(level()));
        assert_eq!(register(&mut ioapic, 0x16), 0xe051);
        assert_eq!(ioapic.set_line(19, true), None);
        let mut ended = Vec::new();
        ioapic.eoi(0x50, |pin| ended.push(pin));
        assert_eq!(ended, []);
        ioapic.eoi(0x51, |pin| ended.push(pin));
        let message = Some(level());
        assert_eq!(ended, [Ended { gsi: 19, message }]);
        ioapic.set_line(19, false);
        ended.clear();
        ioapic.eoi(0x51, |pin| ended.push(pin));
        assert_eq!(
            ended,
            [Ended {
                gsi: 19,
                message: None
            }]
        );
        ended.clear();
        ioapic.eoi(0x51, |pin| ended.push(pin));
        assert_eq!(ended, []);
    }

    #[test]
    fn a_level_that_came_while_masked_is_sent_at_the_unmask() {
        let mut ioapic = VIoApic::new(0, 0, 24);
        let written = set_pin(&mut ioapic, 9, (0x1_a051, 2 << 24));
        let masked = PinSetup {
            gsi: 9,
            masked: true,
            trigger: Trigger::Level,
            polarity: Polarity::ActiveLow,
            vector: 0x51,
        };
        assert_eq!(written.changed, Some(masked));
        assert_eq!(ioapic.set_line(9, true), None);
        let written = set(&mut ioapic, 0x10 + 18, 0xa051);
        let masked = false;
        assert_eq!(
            written.changed,
            Some(PinSetup {
                masked,
                ..ioapic.setup(9).unwrap()
            })
        );
        assert_eq!(written.message, Some(level()));
        // The same again, and a new destination, change nothing that the physical side must know.
        assert_eq!(set_pin(&mut ioapic, 9, (0xa051, 0)), Written::default());
    }

    #[test]
    fn remote_irr_is_not_the_guests_to_write_but_an_edge_entry_has_none() {
        let mut ioapic = VIoApic::new(0, 0, 24);
        set_pin(&mut ioapic, 0, (0x1_f051, 0));
        assert_eq!(register(&mut ioapic, 0x10), 0x1_a051);
        set_pin(&mut ioapic, 0, LEVEL_0X51_TO_2);
        ioapic.set_line(0, true);
        set(&mut ioapic, 0x10, 0x1_a051);
        assert_eq!(register(&mut ioapic, 0x10), 0x1_e051);
        set(&mut ioapic, 0x10, 0x1_2051);
        assert_eq!(register(&mut ioapic, 0x10), 0x1_2051);
    }

    #[test]
    fn any_access_does_no_harm() {
        let mut ioapic = VIoApic::new(0xff, u32::MAX - 4, 255);
        for index in 0..=255u8 {
            for value in [0, 1, 0x700, 0x300, 0x8000, u32::MAX] {
                set(&mut ioapic, index, value);
                let _ = register(&mut ioapic, index);
                ioapic.set_line(value, true);
                ioapic.set_line(u32::MAX - u32::from(index), value & 1 == 0);
                ioapic.eoi(value as u8, |_| {});
            }
            let _ = ioapic.read(index.into());
        }
    }
}
