//! Base addresses: which registers there are, how much each decodes, and where (6.2.5).

use alloc::vec::Vec;

use xenolith_core::boot::PhysRange;

use super::{Bdf, Bus, command, register};

/// What a register places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Memory32,
    /// Two registers.
    Memory64,
    Ports,
    /// Decoded only while its own lowest bit is set too.
    Rom,
}

/// A base address register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bar {
    pub(super) register: u16,
    pub(super) kind: Kind,
    pub(super) size: u64,
}

const ROM_ENABLE: u32 = 1;
const ROM_ADDRESS: u32 = 0xffff_f800;

impl Bar {
    /// Where it is by what the device holds now.
    pub(super) fn address(&self, bus: &mut impl Bus, at: Bdf) -> u64 {
        let low = bus.config_read(at, self.register, 4);
        let address = match self.kind {
            Kind::Memory32 => u64::from(low & !0xf),
            Kind::Memory64 => {
                let high = bus.config_read(at, self.register + 4, 4);
                u64::from(high) << 32 | u64::from(low & !0xf)
            }
            Kind::Ports => u64::from(low & !3),
            Kind::Rom => u64::from(low & ROM_ADDRESS),
        };
        address & !(self.size - 1)
    }

    /// The memory that it decodes while memory is decoded at all. None for ports and a ROM that is off; the error is a range
    /// beyond the address space.
    pub(super) fn memory(&self, bus: &mut impl Bus, at: Bdf) -> Result<Option<PhysRange>, ()> {
        match self.kind {
            Kind::Ports => return Ok(None),
            Kind::Rom if bus.config_read(at, self.register, 4) & ROM_ENABLE == 0 => {
                return Ok(None);
            }
            _ => {}
        }
        PhysRange::new(self.address(bus, at), self.size)
            .map(Some)
            .ok_or(())
    }

    /// Whether an aligned register is one of this one's.
    pub(super) fn covers(&self, register: u16) -> bool {
        register == self.register || (self.kind == Kind::Memory64 && register == self.register + 4)
    }

    /// The bit of the command register that makes it count.
    pub(super) fn decoding(&self) -> u32 {
        match self.kind {
            Kind::Ports => command::PORTS,
            _ => command::MEMORY,
        }
    }
}

/// How many base addresses a header of this kind has, and where its ROM's is.
fn layout(header: u8) -> Option<(u16, u16)> {
    match header {
        0 => Some((6, 0x30)),
        1 => Some((2, 0x38)),
        _ => None,
    }
}

/// Finds a function's registers by writing all ones to each, with nothing decoded meanwhile.
pub(super) fn find(bus: &mut impl Bus, at: Bdf, header: u8) -> Vec<Bar> {
    let mut found = Vec::new();
    let Some((count, rom)) = layout(header) else {
        return found;
    };
    let old = bus.config_read(at, register::COMMAND, 2);
    bus.config_write(
        at,
        register::COMMAND,
        2,
        old & !(command::PORTS | command::MEMORY),
    );
    let mut index = 0;
    while index < count {
        let bar = probe(bus, at, register::BARS + index * 4, index + 1 < count);
        index += match bar {
            Some(Bar {
                kind: Kind::Memory64,
                ..
            }) => 2,
            _ => 1,
        };
        found.extend(bar.filter(|bar| bar.size != 0));
    }
    let (_, size) = ones(bus, at, rom, ROM_ADDRESS);
    if size & ROM_ADDRESS != 0 {
        found.push(Bar {
            register: rom,
            kind: Kind::Rom,
            size: u64::from(!(size & ROM_ADDRESS)) + 1,
        });
    }
    bus.config_write(at, register::COMMAND, 2, old);
    found
}

/// Writes ones, reads what stays, and restores: the old value, and what stayed.
fn ones(bus: &mut impl Bus, at: Bdf, register: u16, value: u32) -> (u32, u32) {
    let old = bus.config_read(at, register, 4);
    bus.config_write(at, register, 4, value);
    let stayed = bus.config_read(at, register, 4);
    bus.config_write(at, register, 4, old);
    (old, stayed)
}

/// One register; a size of 0 stands for one that decodes nothing that could be told.
fn probe(bus: &mut impl Bus, at: Bdf, register: u16, has_next: bool) -> Option<Bar> {
    const PORTS: u32 = 1;
    const WIDTH: u32 = 0b110;
    const WIDE: u32 = 0b100;
    let (old, stayed) = ones(bus, at, register, u32::MAX);
    if stayed == 0 {
        return None;
    }
    let bar = |kind, size| {
        Some(Bar {
            register,
            kind,
            size,
        })
    };
    if stayed & PORTS != 0 {
        // Devices may leave the upper half of a port's address out.
        let size = !(stayed & !3) & 0xffff;
        return bar(Kind::Ports, u64::from(size) + 1);
    }
    let low = u64::from(stayed & !0xf);
    if old & WIDTH == WIDE && has_next {
        let (_, high) = ones(bus, at, register + 4, u32::MAX);
        return bar(Kind::Memory64, (u64::from(high) << 32 | low).wrapping_neg());
    }
    bar(Kind::Memory32, u64::from((low as u32).wrapping_neg()))
}
