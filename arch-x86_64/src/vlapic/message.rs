//! What travels on the interrupt bus: from a local APIC's command register, an IOAPIC's entry or a device's MSI
//! (Intel SDM, volume 3, 11.6.1 and 11.11).

use super::registers::{COMMAND, Command};

/// How an interrupt signals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// Once, at a change.
    Edge,
    /// As long as the line is up; its end is told to the IOAPICs.
    Level,
}

impl Trigger {
    /// From the bit that says "level".
    #[must_use]
    pub const fn from_level(level: bool) -> Self {
        if level { Self::Level } else { Self::Edge }
    }
}

/// What the message does at its destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// An interrupt with the vector, at each destination.
    Fixed,
    /// An interrupt with the vector, at the one destination with the lowest priority.
    LowestPriority,
    /// A system-management interrupt: guests have none.
    Smi,
    /// A non-maskable interrupt.
    Nmi,
    /// Reset, then wait for a start-up message.
    Init,
    /// Start in real mode at page `vector`.
    StartUp,
    /// The vector comes from a PIC: guests have none.
    External,
}

impl Delivery {
    /// From the three bits that all message formats share; none for the reserved one.
    #[must_use]
    pub const fn from_bits(bits: u32) -> Option<Self> {
        Some(match bits & 7 {
            0 => Self::Fixed,
            1 => Self::LowestPriority,
            2 => Self::Smi,
            4 => Self::Nmi,
            5 => Self::Init,
            6 => Self::StartUp,
            7 => Self::External,
            _ => return None,
        })
    }
}

/// Who a message is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Every local APIC.
    Everyone,
    /// Every local APIC except the sender's.
    Others,
    /// The sender's own.
    Own,
    /// The local APIC with this id.
    Physical(u32),
    /// The local APICs whose logical id matches.
    Logical(u32),
}

impl Destination {
    /// From an 8-bit destination field, as xAPIC, IOAPIC and MSI have it.
    #[must_use]
    pub const fn from_byte(id: u8, logical: bool) -> Self {
        match (logical, id) {
            (true, _) => Self::Logical(id as u32),
            (false, 0xff) => Self::Everyone,
            (false, _) => Self::Physical(id as u32),
        }
    }

    /// From the 32-bit destination field of an x2APIC.
    #[must_use]
    pub const fn from_word(id: u32, logical: bool) -> Self {
        match (logical, id) {
            (_, u32::MAX) => Self::Everyone,
            (true, _) => Self::Logical(id),
            (false, _) => Self::Physical(id),
        }
    }
}

/// One message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// Vector of an interrupt, page of a start-up; without meaning else.
    pub vector: u8,
    /// What it does.
    pub delivery: Delivery,
    /// How it signals.
    pub trigger: Trigger,
    /// Who it is for.
    pub destination: Destination,
}

impl Message {
    /// From a write of the command register; `destination` is what its other half says. None for what asks nothing: a
    /// reserved mode, or the end of an INIT, which only old buses sent.
    #[must_use]
    pub fn from_command(command: Command, destination: Destination) -> Option<Self> {
        let delivery = Delivery::from_bits(command.read(COMMAND::DELIVERY))?;
        if delivery == Delivery::Init && !command.is_set(COMMAND::ASSERT) {
            return None;
        }
        let destination = match command.read_as_enum(COMMAND::SHORTHAND) {
            Some(COMMAND::SHORTHAND::Value::Own) => Destination::Own,
            Some(COMMAND::SHORTHAND::Value::Everyone) => Destination::Everyone,
            Some(COMMAND::SHORTHAND::Value::Others) => Destination::Others,
            _ => destination,
        };
        Some(Self {
            vector: command.read(COMMAND::VECTOR) as u8,
            delivery,
            // Interrupts between processors are edges whatever the trigger bit says.
            trigger: Trigger::Edge,
            destination,
        })
    }

    /// From the address and data of an MSI; none when the address is not in the APICs' window or the mode is reserved.
    #[must_use]
    pub const fn from_msi(address: u64, data: u32) -> Option<Self> {
        const WINDOW: u64 = 0xfee0_0000;
        if address & !0xf_ffff != WINDOW {
            return None;
        }
        let Some(delivery) = Delivery::from_bits(data >> 8) else {
            return None;
        };
        Some(Self {
            vector: data as u8,
            delivery,
            trigger: Trigger::from_level(data & 1 << 15 != 0),
            destination: Destination::from_byte((address >> 12) as u8, address & 1 << 2 != 0),
        })
    }

    /// Whether it is an interrupt with a vector that may not be: 0 to 15 belong to the CPU.
    #[must_use]
    pub const fn has_illegal_vector(&self) -> bool {
        matches!(self.delivery, Delivery::Fixed | Delivery::LowestPriority) && self.vector < 16
    }
}
