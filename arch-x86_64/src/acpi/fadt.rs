//! The fixed description table (FADT; ACPI Specification 6.4, 5.2.9), and what powers the machine off (`_S5_`, 7.4.2.6).
//!
//! The sleep types stand in a package of the byte code. A bounded search finds it: the name with its definition before and
//! the package behind it, of plain numbers, as every firmware writes it.

use super::{half, long, word};

/// A register as ACPI names it (generic address structure).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Register {
    /// In memory.
    Memory(u64),
    /// An I/O port.
    Port(u16),
    /// In a PCI device's configuration: device, function and offset as in the structure.
    Pci(u64),
}

/// What the table says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fadt {
    /// The interrupt (GSI or old-bus number) of ACPI's events.
    pub sci: u16,
    /// Status and enable registers of fixed events; 0 where there is none.
    pub pm1_event: [u16; 2],
    /// Bytes of each event block.
    pub pm1_event_length: u8,
    /// Control registers, to which sleep types are written; 0 where there is none.
    pub pm1_control: [u16; 2],
    /// The timer of 3.579545 MHz; 0 where there is none.
    pub timer: u16,
    /// Whether the timer has 32 bits, else 24.
    pub timer_is_32_bit: bool,
    /// What resets the machine: a register and the value for it.
    pub reset: Option<(Register, u8)>,
    /// The port and value that switch ACPI mode on; port 0 when it is always on.
    pub enable: (u16, u8),
    /// Whether the fixed hardware is missing.
    pub reduced: bool,
    /// Physical address of the DSDT.
    pub dsdt: u64,
    /// Physical address of the FACS.
    pub facs: u64,
}

fn register(table: &[u8], at: usize) -> Option<Register> {
    let address = long(table, at.checked_add(4)?)?;
    match *table.get(at)? {
        _ if address == 0 => None,
        0 => Some(Register::Memory(address)),
        1 => Some(Register::Port(u16::try_from(address).ok()?)),
        2 => Some(Register::Pci(address)),
        _ => None,
    }
}

/// The port of an old field and of the newer one that has precedence.
fn port(table: &[u8], old: usize, new: usize) -> u16 {
    match register(table, new) {
        Some(Register::Port(port)) => port,
        _ => word(table, old)
            .and_then(|port| u16::try_from(port).ok())
            .unwrap_or(0),
    }
}

impl Fadt {
    /// Reads a whole table; `None` when it is too short.
    #[must_use]
    pub fn parse(table: &[u8]) -> Option<Self> {
        const TIMER_EXTENDED: u32 = 1 << 8;
        const HAS_RESET: u32 = 1 << 10;
        const REDUCED: u32 = 1 << 20;
        let flags = word(table, 112)?;
        let newer = |old: usize, new: usize| {
            let new = long(table, new).filter(|at| *at != 0);
            new.or_else(|| word(table, old).map(u64::from)).unwrap_or(0)
        };
        let reset = register(table, 116).zip(table.get(128).copied());
        Some(Self {
            sci: half(table, 46)?,
            pm1_event: [port(table, 56, 148), port(table, 60, 160)],
            pm1_event_length: *table.get(88)?,
            pm1_control: [port(table, 64, 172), port(table, 68, 184)],
            timer: port(table, 76, 208),
            timer_is_32_bit: flags & TIMER_EXTENDED != 0,
            reset: reset.filter(|_| flags & HAS_RESET != 0),
            enable: (word(table, 48)? as u16, *table.get(52)?),
            reduced: flags & REDUCED != 0,
            dsdt: newer(40, 140),
            facs: newer(36, 132),
        })
    }
}

/// What is written to the control registers' sleep-type fields to power off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SleepType {
    /// For the first control register.
    pub a: u8,
    /// For the second.
    pub b: u8,
}

/// Finds the sleep types of power-off in a table of byte code.
#[must_use]
pub fn power_off_type(code: &[u8]) -> Option<SleepType> {
    const NAME: &[u8] = b"_S5_";
    let mut from = 0usize;
    loop {
        let at = code.get(from..)?.windows(4).position(|w| w == NAME)?;
        let name = from.checked_add(at)?;
        from = name.checked_add(4)?;
        if is_defined(code.get(..name)?)
            && let Some(found) = package(code.get(from..)?)
        {
            return Some(found);
        }
    }
}

/// Whether what stands before a name defines it, in this scope or from the root.
fn is_defined(before: &[u8]) -> bool {
    const NAME_OP: u8 = 8;
    matches!(before, [.., NAME_OP] | [.., NAME_OP, b'\\'])
}

fn package(code: &[u8]) -> Option<SleepType> {
    const PACKAGE_OP: u8 = 0x12;
    let (first, rest) = code.split_first()?;
    if *first != PACKAGE_OP {
        return None;
    }
    // The two highest bits of a length tell how many bytes follow; then comes the number of elements.
    let more = usize::from(rest.first()? >> 6);
    let elements = rest.get(more.checked_add(2)?..)?;
    let (a, elements) = number(elements)?;
    let b = number(elements).map_or(a, |(b, _)| b);
    Some(SleepType { a, b })
}

fn number(code: &[u8]) -> Option<(u8, &[u8])> {
    const BYTE: u8 = 0x0a;
    const WORD: u8 = 0x0b;
    const DOUBLE_WORD: u8 = 0x0c;
    let (value, used) = match *code {
        [value @ (0 | 1), ..] => (value, 1),
        [BYTE, value, ..] => (value, 2),
        [WORD, value, _, ..] => (value, 3),
        [DOUBLE_WORD, value, _, _, _, ..] => (value, 5),
        _ => return None,
    };
    Some((value & 7, code.get(used..)?))
}
