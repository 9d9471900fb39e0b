//! The table of interrupt controllers (MADT; ACPI Specification 6.4, 5.2.12).

use alloc::vec::Vec;

use super::{HEADER, half, long, word};
use crate::pirq::Line;

/// A local APIC, by a xAPIC or an x2APIC entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalApic {
    /// The processor's number in ACPI's name space.
    pub uid: u32,
    /// Its APIC number.
    pub id: u32,
    /// Whether it can be used now.
    pub enabled: bool,
}

/// An I/O APIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoApic {
    /// Its number.
    pub id: u8,
    /// Physical address of its registers.
    pub at: u32,
    /// The first interrupt (GSI) of its inputs.
    pub first: u32,
}

/// An interrupt of the old bus that is another GSI, or has another polarity or trigger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Override {
    /// Its number on the old bus.
    pub source: u8,
    /// The GSI.
    pub gsi: u32,
    /// Polarity in bits 0 and 1, trigger in bits 2 and 3, as in the table.
    pub flags: u16,
}

impl Override {
    /// The line, and how it signals: what conforms to the old bus does so by a rising edge.
    #[must_use]
    pub const fn line(&self) -> (u32, Line) {
        const ACTIVE_LOW: u16 = 0b11;
        const LEVEL: u16 = 0b11 << 2;
        let how = Line {
            level: self.flags & LEVEL == LEVEL,
            active_low: self.flags & ACTIVE_LOW == ACTIVE_LOW,
        };
        (self.gsi, how)
    }
}

/// Which input of local APICs is the NMI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalNmi {
    /// The processor; `None` for all.
    pub uid: Option<u32>,
    /// Polarity and trigger.
    pub flags: u16,
    /// 0 or 1.
    pub input: u8,
}

/// What the table says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Madt {
    /// Physical address of the local APICs' registers.
    pub local_apic: u64,
    /// Whether the PC's two old controllers exist too.
    pub has_8259: bool,
    /// Local APICs, the unusable ones included.
    pub cpus: Vec<LocalApic>,
    /// I/O APICs.
    pub ioapics: Vec<IoApic>,
    /// Interrupts that are not what their number says.
    pub overrides: Vec<Override>,
    /// NMI inputs.
    pub nmis: Vec<LocalNmi>,
}

/// Numbers of the entries.
pub(crate) mod entry {
    pub(crate) const LOCAL_APIC: u8 = 0;
    pub(crate) const IO_APIC: u8 = 1;
    pub(crate) const OVERRIDE: u8 = 2;
    pub(super) const LOCAL_NMI: u8 = 4;
    pub(super) const LOCAL_APIC_ADDRESS: u8 = 5;
    pub(crate) const LOCAL_X2APIC: u8 = 9;
    pub(super) const LOCAL_X2APIC_NMI: u8 = 10;
    /// Flag of a local APIC that can be used.
    pub(crate) const ENABLED: u32 = 1;
    /// Flag of the table: the old controllers exist.
    pub(crate) const HAS_8259: u32 = 1;
}

impl Madt {
    /// Reads a whole table; `None` when an entry is cut short.
    #[must_use]
    pub fn parse(table: &[u8]) -> Option<Self> {
        let mut madt = Self {
            local_apic: word(table, HEADER)?.into(),
            has_8259: word(table, HEADER + 4)? & entry::HAS_8259 != 0,
            ..Self::default()
        };
        let mut rest = table.get(HEADER + 8..)?;
        while let [kind, size, ..] = *rest {
            let (Some(bytes), true) = (rest.get(..size.into()), size >= 2) else {
                return None;
            };
            madt.add(kind, bytes)?;
            rest = rest.get(size.into()..)?;
        }
        Some(madt)
    }

    fn add(&mut self, kind: u8, bytes: &[u8]) -> Option<()> {
        let byte = |at: usize| bytes.get(at).copied();
        match kind {
            entry::LOCAL_APIC => self.cpus.push(LocalApic {
                uid: byte(2)?.into(),
                id: byte(3)?.into(),
                enabled: word(bytes, 4)? & entry::ENABLED != 0,
            }),
            entry::LOCAL_X2APIC => self.cpus.push(LocalApic {
                uid: word(bytes, 12)?,
                id: word(bytes, 4)?,
                enabled: word(bytes, 8)? & entry::ENABLED != 0,
            }),
            entry::IO_APIC => self.ioapics.push(IoApic {
                id: byte(2)?,
                at: word(bytes, 4)?,
                first: word(bytes, 8)?,
            }),
            entry::OVERRIDE => self.overrides.push(Override {
                source: byte(3)?,
                gsi: word(bytes, 4)?,
                flags: half(bytes, 8)?,
            }),
            entry::LOCAL_NMI => self.nmis.push(LocalNmi {
                uid: Some(byte(2)?.into()).filter(|uid| *uid != 0xff),
                flags: half(bytes, 3)?,
                input: byte(5)?,
            }),
            entry::LOCAL_X2APIC_NMI => self.nmis.push(LocalNmi {
                uid: Some(word(bytes, 4)?).filter(|uid| *uid != u32::MAX),
                flags: half(bytes, 2)?,
                input: byte(8)?,
            }),
            entry::LOCAL_APIC_ADDRESS => self.local_apic = long(bytes, 4)?,
            _ => {}
        }
        Some(())
    }
}
