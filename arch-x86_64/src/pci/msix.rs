//! The extended form of message-signalled interrupts (6.8.2): a table of messages in the device's memory. The domain's
//! table is here; the device's own is never the domain's to write.

use alloc::{boxed::Box, vec};

use xenolith_core::{Errno, boot::PhysRange};

use super::{Bdf, Bus, Wants, route::Route};

const ENABLE: u32 = 1 << 31;
const MASKED: u32 = 1 << 30;
const SIZE_SHIFT: u32 = 16;
const SIZE: u32 = 0x7ff;
const CONTROL: u16 = 2;

/// Bytes of an entry: address, data, control with the mask in its lowest bit.
const ENTRY: u64 = 16;

#[derive(Clone, Copy, Debug)]
struct Entry {
    route: Route,
    masked: bool,
}

impl Entry {
    fn reset() -> Self {
        Self {
            route: Route::default(),
            masked: true,
        }
    }

    fn read(&self, word: u64) -> u32 {
        match word {
            0 => self.route.signal.address as u32,
            1 => (self.route.signal.address >> 32) as u32,
            2 => self.route.signal.data,
            _ => self.masked.into(),
        }
    }

    fn write(&mut self, word: u64, value: u32) {
        let address = &mut self.route.signal.address;
        match word {
            0 => *address = *address & !0xffff_ffff | u64::from(value & !3),
            1 => *address = u64::from(value) << 32 | *address & 0xffff_ffff,
            2 => self.route.signal.data = value,
            _ => self.masked = value & 1 != 0,
        }
    }

    /// Writes the device's entry, first of all its mask.
    fn program(&mut self, bus: &mut impl Bus, at: u64, (wants, enabled): (Wants, bool)) {
        bus.memory_write(at + 12, 4, 1);
        if !enabled || self.masked {
            return;
        }
        let Some(sent) = self.route.open(bus, wants) else {
            return;
        };
        bus.memory_write(at, 4, sent.address & 0xffff_ffff);
        bus.memory_write(at + 4, 4, sent.address >> 32);
        bus.memory_write(at + 8, 4, sent.data.into());
        bus.memory_write(at + 12, 4, 0);
    }
}

/// The capability of one function.
#[derive(Debug)]
pub(super) struct Msix {
    at: u16,
    /// The base address register in whose memory the table is, and the table's offset there.
    bar: u16,
    offset: u64,
    enabled: bool,
    masked: bool,
    wants: Wants,
    entries: Box<[Entry]>,
    /// Where the table is while the device decodes its memory.
    place: Option<u64>,
}

impl Msix {
    /// Takes over a capability; the device sends nothing.
    pub(super) fn new(bus: &mut impl Bus, function: Bdf, at: u16, wants: Wants) -> Self {
        const BAR: u32 = 7;
        let control = bus.config_read(function, at, 4);
        let table = bus.config_read(function, at + 4, 4);
        bus.config_write(function, at + CONTROL, 2, 0);
        let entries = (control >> SIZE_SHIFT & SIZE) as usize + 1;
        Self {
            at,
            bar: 0x10 + (table & BAR) as u16 * 4,
            offset: u64::from(table & !BAR),
            enabled: false,
            masked: false,
            wants,
            entries: vec![Entry::reset(); entries].into_boxed_slice(),
            place: None,
        }
    }

    /// The base address register in whose memory the table is.
    pub(super) fn bar(&self) -> u16 {
        self.bar
    }

    fn size(&self) -> u64 {
        self.entries.len() as u64 * ENTRY
    }

    /// The table's part of that register's memory.
    pub(super) fn part(&self, memory: PhysRange) -> Option<PhysRange> {
        let start = memory.start().checked_add(self.offset)?;
        PhysRange::new(start, self.size()).filter(|table| memory.contains(table))
    }

    /// The table, while the device decodes its memory.
    pub(super) fn table(&self) -> Option<PhysRange> {
        PhysRange::new(self.place?, self.size())
    }

    /// The device's memory has gone or come.
    pub(super) fn set_place(&mut self, bus: &mut impl Bus, place: Option<PhysRange>) {
        self.place = place.map(|table| table.start());
        self.program(bus);
    }

    /// Reads an aligned word of configuration space; none if it is not of the capability.
    pub(super) fn read(&self, bus: &mut impl Bus, function: Bdf, register: u16) -> Option<u32> {
        (register == self.at).then(|| {
            let identity = bus.config_read(function, register, 2);
            let flag = |is: bool, bit: u32| if is { bit } else { 0 };
            identity
                | (self.entries.len() as u32 - 1) << SIZE_SHIFT
                | flag(self.enabled, ENABLE)
                | flag(self.masked, MASKED)
        })
    }

    /// Writes an aligned word; false if it is not of the capability.
    pub(super) fn write(
        &mut self,
        bus: &mut impl Bus,
        function: Bdf,
        register: u16,
        value: u32,
    ) -> bool {
        if register == self.at {
            self.masked = value & MASKED != 0;
            let enabled = value & ENABLE != 0;
            if enabled {
                self.enabled = true;
                // Masked as a whole until its entries are right.
                self.set_control(bus, function, ENABLE | MASKED);
                self.program(bus);
                self.set_control(bus, function, value & (ENABLE | MASKED));
            } else {
                self.disable(bus, function);
                let entries = self.entries.iter_mut();
                entries.for_each(|entry| entry.route.rest(bus));
            }
        }
        // Where the tables are is the device's to tell.
        register == self.at || register == self.at + 4 || register == self.at + 8
    }

    fn set_control(&self, bus: &mut impl Bus, function: Bdf, bits: u32) {
        bus.config_write(function, self.at + CONTROL, 2, bits >> 16);
    }

    fn program(&mut self, bus: &mut impl Bus) {
        let Some(place) = self.place else {
            return;
        };
        let how = (self.wants, self.enabled);
        for (index, entry) in (0u64..).zip(&mut self.entries) {
            entry.program(bus, place + index * ENTRY, how);
        }
    }

    /// The device sends nothing any more.
    pub(super) fn close(&mut self, bus: &mut impl Bus, function: Bdf) {
        self.disable(bus, function);
        let entries = self.entries.iter_mut();
        entries.for_each(|entry| entry.route.close(bus));
    }

    fn disable(&mut self, bus: &mut impl Bus, function: Bdf) {
        self.enabled = false;
        self.set_control(bus, function, 0);
        self.program(bus);
    }

    /// Programs one entry of the device.
    fn program_one(&mut self, bus: &mut impl Bus, index: u64) {
        let how = (self.wants, self.enabled);
        if let Some(entry) = self.entries.get_mut(index as usize)
            && let Some(place) = self.place
        {
            entry.program(bus, place + index * ENTRY, how);
        }
    }

    /// Gives an entry a number, which opens it. `EINVAL`: there is no such entry; `EEXIST`: it has one; `ENOSPC`: the machine
    /// has no place left for it.
    pub(super) fn number(
        &mut self,
        bus: &mut impl Bus,
        index: u16,
        number: u16,
    ) -> Result<(), Errno> {
        let entry = self.entries.get_mut(usize::from(index));
        let entry = entry.ok_or(Errno::EINVAL)?;
        if entry.route.has_number() {
            return Err(Errno::EEXIST);
        }
        if !entry.route.set_number(bus, Some(number)) {
            return Err(Errno::ENOSPC);
        }
        entry.masked = false;
        self.program_one(bus, index.into());
        Ok(())
    }

    /// Takes the number away.
    pub(super) fn forget_number(&mut self, bus: &mut impl Bus, index: u16) {
        if let Some(entry) = self.entries.get_mut(usize::from(index)) {
            entry.masked = true;
            self.program_one(bus, index.into());
        }
        if let Some(entry) = self.entries.get_mut(usize::from(index)) {
            entry.route.set_number(bus, None);
        }
    }

    /// The device was reset: it is told again what it was told before.
    pub(super) fn restore(&mut self, bus: &mut impl Bus, function: Bdf) {
        if self.enabled {
            self.set_control(bus, function, ENABLE | MASKED);
            self.program(bus);
            let masked = if self.masked { MASKED } else { 0 };
            self.set_control(bus, function, ENABLE | masked);
        }
    }

    /// Reads the domain's table. Only whole words, one or two, have a meaning.
    pub(super) fn table_read(&self, offset: u64, size: usize) -> u64 {
        let word = |offset: u64| {
            let entry = self.entries.get((offset / ENTRY) as usize);
            u64::from(entry.map_or(0, |entry| entry.read(offset % ENTRY / 4)))
        };
        match (size, offset & 7) {
            (8, 0) => word(offset + 4) << 32 | word(offset),
            _ => word(offset & !3) >> ((offset & 3) * 8),
        }
    }

    /// Writes the domain's table, and the device's as far as that is allowed.
    pub(super) fn table_write(&mut self, bus: &mut impl Bus, offset: u64, size: usize, value: u64) {
        let index = offset / ENTRY;
        let Some(entry) = self.entries.get_mut(index as usize) else {
            return;
        };
        let word = offset % ENTRY / 4;
        match (size, offset & 7) {
            (8, 0) => {
                entry.write(word, value as u32);
                entry.write(word + 1, (value >> 32) as u32);
            }
            (4, 0 | 4) => entry.write(word, value as u32),
            _ => return,
        }
        self.program_one(bus, index);
    }
}
