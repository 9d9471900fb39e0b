//! One function: which of its registers are the domain's to read and write as they are, and which are not.

use alloc::vec::Vec;
use core::ops::Range;

use xenolith_core::{Errno, boot::PhysRange};

use super::{
    Bdf, Bus, Wants,
    bar::{self, Bar, Kind},
    capability, command, extract, merge,
    msi::Msi,
    msix::Msix,
    register,
};

/// What a function is to the emulation.
#[derive(Debug)]
enum Class {
    /// What it holds is the chipset's: where memory and configuration space are.
    HostBridge,
    /// It decodes registers that the hypervisor keeps, an interrupt controller's perhaps.
    Kept,
    /// A bridge to another bus, with the word of its bus numbers, which stay.
    Bridge(u32),
    Device,
}

/// A function of the machine.
#[derive(Debug)]
pub(super) struct Function {
    at: Bdf,
    class: Class,
    bars: Vec<Bar>,
    /// The memory that it decodes, with the register that says so.
    active: Vec<(u16, PhysRange)>,
    msi: Option<Msi>,
    msix: Option<Msix>,
    hidden: Vec<Range<u16>>,
}

impl Function {
    /// Takes over a function that exists; it sends no messages.
    pub(super) fn new(bus: &mut impl Bus, at: Bdf, extended: bool, wants: Wants) -> Self {
        const HOST_BRIDGE: u32 = 0x0600;
        let class = bus.config_read(at, register::CLASS, 4) >> 16;
        let header = bus.config_read(at, register::HEADER, 4) >> 16 & 0x7f;
        let class = match (class, header) {
            (HOST_BRIDGE, _) => Class::HostBridge,
            (_, 1) => Class::Bridge(bus.config_read(at, register::BUS_NUMBERS, 4)),
            _ => Class::Device,
        };
        let bars = match class {
            Class::HostBridge => Vec::new(),
            _ => bar::find(bus, at, header as u8),
        };
        let msi =
            capability::find(bus, at, capability::MSI).map(|place| Msi::new(bus, at, place, wants));
        let msix = capability::find(bus, at, capability::MSIX)
            .map(|place| Msix::new(bus, at, place, wants));
        let hidden = if extended {
            capability::hidden(bus, at)
        } else {
            Vec::new()
        };
        let mut function = Self {
            at,
            class,
            bars,
            active: Vec::new(),
            msi,
            msix,
            hidden,
        };
        let decodes = bus.config_read(at, register::COMMAND, 2) & command::MEMORY != 0;
        if decodes && !function.memory_is_allowed(bus) {
            log::debug!("{at:x?} decodes memory that no domain gets");
            function.class = Class::Kept;
        }
        function.refresh(bus);
        function
    }

    pub(super) fn at(&self) -> Bdf {
        self.at
    }

    /// The device memory that it decodes.
    pub(super) fn active(&self) -> impl Iterator<Item = PhysRange> + '_ {
        self.active.iter().map(|(_, range)| *range)
    }

    /// Its table of messages in memory.
    pub(super) fn table(&self) -> Option<PhysRange> {
        self.msix.as_ref().and_then(Msix::table)
    }

    /// The emulation of that table.
    pub(super) fn msix(&mut self) -> Option<&mut Msix> {
        self.msix.as_mut()
    }

    /// Reads configuration space; the access lies in one aligned word.
    pub(super) fn read(&self, bus: &mut impl Bus, register: u16, size: u8) -> u32 {
        let word = register & !3;
        let emulated = match (&self.msi, &self.msix) {
            (Some(msi), _) if let Some(value) = msi.read(bus, self.at, word) => Some(value),
            (_, Some(msix)) => msix.read(bus, self.at, word),
            _ => None,
        };
        match emulated {
            Some(value) => extract(value, register, size),
            None if self.hidden.iter().any(|hidden| hidden.start == word) => {
                // A capability of no kind, with the way to the next one.
                const NEXT: u32 = 0xfff0_0000;
                extract(bus.config_read(self.at, word, 4) & NEXT, register, size)
            }
            None => bus.config_read(self.at, register, size),
        }
    }

    /// Writes configuration space; the access lies in one aligned word.
    pub(super) fn write(&mut self, bus: &mut impl Bus, register: u16, size: u8, value: u32) {
        let word = register & !3;
        if self.write_message(bus, register, size, value)
            || self.hidden.iter().any(|hidden| hidden.contains(&word))
        {
            return;
        }
        match (&self.class, word) {
            (Class::Kept, _) => {}
            (_, register::COMMAND) => {
                if register == register::COMMAND {
                    self.set_command(bus, size, value);
                } else {
                    bus.config_write(self.at, register, size, value);
                }
            }
            (Class::HostBridge, register::BARS..) => {}
            // A reset of what is behind the bridge clears them: the domain may say that all is as before.
            (Class::Bridge(numbers), register::BUS_NUMBERS) => {
                bus.config_write(self.at, word, 4, *numbers);
            }
            _ => match self.bars.iter().position(|bar| bar.covers(word)) {
                Some(index) => self.write_bar(bus, index, (register, size, value)),
                None => bus.config_write(self.at, register, size, value),
            },
        }
    }

    /// What belongs to MSI or MSI-X.
    fn write_message(&mut self, bus: &mut impl Bus, register: u16, size: u8, value: u32) -> bool {
        let (at, word) = (self.at, register & !3);
        let whole = |old: u32| merge(old, register, size, value);
        if let Some(msi) = &mut self.msi
            && let Some(old) = msi.read(bus, at, word)
        {
            return msi.write(bus, at, word, whole(old));
        }
        match &mut self.msix {
            Some(msix) => {
                let old = msix.read(bus, at, word).unwrap_or(0);
                msix.write(bus, at, word, whole(old))
            }
            None => false,
        }
    }

    /// A base address. It counts when the device begins to decode, so it is changed only while it does not.
    fn write_bar(&mut self, bus: &mut impl Bus, index: usize, write: (u16, u8, u32)) {
        let (register, size, value) = write;
        let Some(bar) = self.bars.get(index).copied() else {
            return;
        };
        let decodes = bus.config_read(self.at, register::COMMAND, 2) & bar.decoding() != 0;
        if decodes && bar.kind != Kind::Rom {
            return;
        }
        if decodes {
            // A ROM comes and goes by its own bit.
            let old = bus.config_read(self.at, bar.register, 4);
            let new = merge(old, register, size, value);
            let on = |value: u32| value & 1 != 0;
            let place = PhysRange::new(u64::from(new & !0x7ff), bar.size);
            let allowed = place.is_some_and(|place| bus.may_hold(place));
            if on(new) && (on(old) && old != new || !allowed) {
                return;
            }
        }
        bus.config_write(self.at, register, size, value);
        if decodes {
            self.refresh(bus);
        }
    }

    /// Writes the command register: decoding begins only where it may.
    fn set_command(&mut self, bus: &mut impl Bus, size: u8, value: u32) {
        let mut value = value;
        let begins = value & !bus.config_read(self.at, register::COMMAND, 2);
        if begins & command::MEMORY != 0 && !self.memory_is_allowed(bus) {
            log::debug!("{:x?}: its memory cannot be where it says", self.at);
            value &= !command::MEMORY;
        }
        if begins & command::PORTS != 0 && !self.ports_are_allowed(bus) {
            log::debug!("{:x?}: its ports cannot be where it says", self.at);
            value &= !command::PORTS;
        }
        if value & command::MEMORY == 0 {
            self.set_active(bus, Vec::new());
        }
        bus.config_write(self.at, register::COMMAND, size, value);
        self.refresh(bus);
    }

    fn memory_is_allowed(&self, bus: &mut impl Bus) -> bool {
        self.bars.iter().all(|bar| match bar.memory(bus, self.at) {
            Ok(Some(range)) => bus.may_hold(range),
            Ok(None) => true,
            Err(()) => false,
        })
    }

    fn ports_are_allowed(&self, bus: &mut impl Bus) -> bool {
        let ports = |bar: &&Bar| bar.kind == Kind::Ports;
        self.bars.iter().filter(ports).all(|bar| {
            let address = bar.address(bus, self.at);
            bus.may_have_ports(address, bar.size)
        })
    }

    /// Looks at what the device decodes now.
    fn refresh(&mut self, bus: &mut impl Bus) {
        let decodes = bus.config_read(self.at, register::COMMAND, 2) & command::MEMORY != 0;
        let mut active = Vec::new();
        for bar in self.bars.iter().filter(|_| decodes) {
            if let Ok(Some(range)) = bar.memory(bus, self.at)
                && bus.may_hold(range)
            {
                active.push((bar.register, range));
            }
        }
        self.set_active(bus, active);
    }

    fn set_active(&mut self, bus: &mut impl Bus, active: Vec<(u16, PhysRange)>) {
        for (_, old) in self.active.iter().filter(|old| !active.contains(old)) {
            bus.forget(*old);
        }
        if let Some(msix) = &mut self.msix {
            let memory = active.iter().find(|(register, _)| *register == msix.bar());
            let table = memory.and_then(|(_, memory)| msix.part(*memory));
            if let Some(page) = table.and_then(|table| table.page_outer()) {
                // Another device's small registers in the same page may be mapped.
                bus.forget(page);
            }
            msix.set_place(bus, table);
        }
        self.active = active;
    }

    /// Gives a message a number: that of MSI, or an entry of MSI-X. `ENODEV` where the function has no such thing.
    pub(super) fn number(
        &mut self,
        bus: &mut impl Bus,
        entry: Option<u16>,
        number: u16,
    ) -> Result<(), Errno> {
        match entry {
            None => {
                let msi = self.msi.as_mut().ok_or(Errno::ENODEV)?;
                msi.number(bus, self.at, number)
            }
            Some(entry) => {
                let msix = self.msix.as_mut().ok_or(Errno::ENODEV)?;
                msix.number(bus, entry, number)
            }
        }
    }

    /// Takes the number away.
    pub(super) fn forget_number(&mut self, bus: &mut impl Bus, entry: Option<u16>) {
        match (entry, &mut self.msi, &mut self.msix) {
            (None, Some(msi), _) => msi.forget_number(bus, self.at),
            (Some(entry), _, Some(msix)) => msix.forget_number(bus, entry),
            _ => {}
        }
    }

    /// It was reset: its messages are as before.
    pub(super) fn restore(&mut self, bus: &mut impl Bus) {
        if let Some(msi) = &mut self.msi {
            msi.restore(bus, self.at);
        }
        if let Some(msix) = &mut self.msix {
            msix.restore(bus, self.at);
        }
    }

    /// Its domain is gone: it sends nothing and reaches no memory.
    pub(super) fn close(&mut self, bus: &mut impl Bus) {
        if let Some(msi) = &mut self.msi {
            msi.close(bus, self.at);
        }
        if let Some(msix) = &mut self.msix {
            msix.close(bus, self.at);
        }
        if let Class::Device = self.class {
            let command = bus.config_read(self.at, register::COMMAND, 2);
            bus.config_write(self.at, register::COMMAND, 2, command & !command::MASTER);
        }
    }
}
