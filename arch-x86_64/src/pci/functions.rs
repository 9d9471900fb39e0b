//! All functions of the machine, found once: what is plugged in later is not there for the domain.

use alloc::vec::Vec;

use xenolith_core::{Errno, boot::PhysRange};

use super::{Bdf, Bus, Wants, function::Function, register};

/// What an address in memory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A page with a table of messages, which only the emulation touches.
    Table,
    /// Registers of devices and nothing else.
    Registers,
    /// Nobody answers there.
    Nothing,
}

/// The functions, ascending by address.
#[derive(Debug, Default)]
pub struct Functions {
    all: Vec<Function>,
}

const NOBODY: u32 = u32::MAX;
const PAGE: u64 = 4096;

impl Functions {
    /// Looks for functions on all buses. `extended`: whether the bus reaches the extended space.
    pub fn find(bus: &mut impl Bus, extended: impl Fn(Bdf) -> bool, wants: Wants) -> Self {
        let mut all = Vec::new();
        for device in 0..=u16::MAX >> 3 {
            let mut count = 1;
            let mut index = 0;
            while index < count {
                let at = Bdf(device << 3 | index);
                let vendor = bus.config_read(at, register::VENDOR, 2);
                if vendor != 0xffff && vendor != 0 {
                    const SEVERAL: u32 = 1 << 23;
                    if index == 0 && bus.config_read(at, register::HEADER, 4) & SEVERAL != 0 {
                        count = 8;
                    }
                    all.push(Function::new(bus, at, extended(at), wants));
                }
                index += 1;
            }
        }
        Self { all }
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.all.len()
    }

    fn function(&mut self, at: Bdf) -> Option<&mut Function> {
        let index = self.all.binary_search_by_key(&at, Function::at).ok()?;
        self.all.get_mut(index)
    }

    /// Reads configuration space. Accesses across words, and of functions that are not there, give all ones.
    pub fn read(&mut self, bus: &mut impl Bus, at: Bdf, register: u16, size: u8) -> u32 {
        match self.function(at) {
            Some(function) if fits(register, size) => function.read(bus, register, size),
            _ => NOBODY,
        }
    }

    /// Writes configuration space.
    pub fn write(&mut self, bus: &mut impl Bus, at: Bdf, register: u16, size: u8, value: u32) {
        match self.function(at) {
            Some(function) if fits(register, size) => function.write(bus, register, size, value),
            _ => {}
        }
    }

    /// What the page of an address is.
    #[must_use]
    pub fn place(&self, address: u64) -> Place {
        let start = address & !(PAGE - 1);
        let Some(page) = PhysRange::new(start, PAGE) else {
            return Place::Nothing;
        };
        if self.tables().any(|table| table.overlaps(&page)) {
            Place::Table
        } else if self.memory().any(|memory| memory.overlaps(&page)) {
            Place::Registers
        } else {
            Place::Nothing
        }
    }

    /// Whether a range is one device's registers from end to end, with no table in it.
    #[must_use]
    pub fn is_registers(&self, range: &PhysRange) -> bool {
        self.memory().any(|memory| memory.contains(range))
            && !self.tables().any(|table| {
                let pages = table.page_outer().unwrap_or(table);
                pages.overlaps(range)
            })
    }

    fn memory(&self) -> impl Iterator<Item = PhysRange> + '_ {
        self.all.iter().flat_map(Function::active)
    }

    /// Tables of messages in memory.
    pub fn tables(&self) -> impl Iterator<Item = PhysRange> + '_ {
        self.all.iter().filter_map(Function::table)
    }

    /// The function whose table an access touches, even in part, and the access's offset in the table.
    fn table_at(&mut self, access: &PhysRange) -> Option<(&mut Function, Option<u64>)> {
        self.all.iter_mut().find_map(|function| {
            let table = function.table().filter(|table| table.overlaps(access))?;
            let offset = table
                .contains(access)
                .then(|| access.start() - table.start());
            Some((function, offset))
        })
    }

    /// Reads in a page with a table; `size` is 1, 2, 4 or 8.
    pub fn memory_read(&mut self, bus: &mut impl Bus, address: u64, size: usize) -> u64 {
        let Some(access) = within_page(address, size) else {
            return u64::MAX;
        };
        if let Some((function, offset)) = self.table_at(&access) {
            let table = function.msix().zip(offset);
            return table.map_or(u64::MAX, |(msix, offset)| msix.table_read(offset, size));
        }
        if self.memory().any(|memory| memory.contains(&access)) {
            bus.memory_read(address, size)
        } else {
            u64::MAX
        }
    }

    /// Writes in a page with a table.
    pub fn memory_write(&mut self, bus: &mut impl Bus, address: u64, size: usize, value: u64) {
        let Some(access) = within_page(address, size) else {
            return;
        };
        if let Some((function, offset)) = self.table_at(&access) {
            if let Some((msix, offset)) = function.msix().zip(offset) {
                msix.table_write(bus, offset, size, value);
            }
            return;
        }
        if self.memory().any(|memory| memory.contains(&access)) {
            bus.memory_write(address, size, value);
        }
    }

    /// Whether a function is there.
    #[must_use]
    pub fn has(&self, at: Bdf) -> bool {
        self.all.binary_search_by_key(&at, Function::at).is_ok()
    }

    /// Gives a message of a function a number: that of MSI, or an entry of MSI-X. `ENODEV` where there is no such thing,
    /// `EINVAL` for no entry, `EEXIST` when it has one, `ENOSPC` when the machine has no place left for it.
    pub fn number(
        &mut self,
        bus: &mut impl Bus,
        at: Bdf,
        entry: Option<u16>,
        number: u16,
    ) -> Result<(), Errno> {
        let function = self.function(at).ok_or(Errno::ENODEV)?;
        function.number(bus, entry, number)
    }

    /// Takes the number away.
    pub fn forget_number(&mut self, bus: &mut impl Bus, at: Bdf, entry: Option<u16>) {
        if let Some(function) = self.function(at) {
            function.forget_number(bus, entry);
        }
    }

    /// A function was reset: its messages are as before. `ENODEV` where there is none.
    pub fn restore(&mut self, bus: &mut impl Bus, at: Bdf) -> Result<(), Errno> {
        let function = self.function(at).ok_or(Errno::ENODEV)?;
        function.restore(bus);
        Ok(())
    }

    /// The domain is gone: nothing is sent, and nothing reaches memory.
    pub fn close(&mut self, bus: &mut impl Bus) {
        self.all.iter_mut().for_each(|function| function.close(bus));
    }
}

/// Whether an access lies in one aligned word of configuration space.
fn fits(register: u16, size: u8) -> bool {
    register < register::END && matches!(size, 1 | 2 | 4) && (register & 3) + u16::from(size) <= 4
}

fn within_page(address: u64, size: usize) -> Option<PhysRange> {
    let access = PhysRange::new(address, size as u64)?;
    (address % PAGE + size as u64 <= PAGE).then_some(access)
}
