//! PCI functions as the domain that owns the machine's devices sees them (PCI Local Bus Specification 3.0, chapter 6).
//!
//! Configuration space is the machine's but for what decides where a device answers and what its messages do: base
//! addresses are checked before a device decodes them, bus numbers stay as they are, and MSI and MSI-X are emulated: the
//! domain's message is kept here, and the device sends one that the hypervisor chose. A domain that has no interrupt controller
//! gets a number for each message instead, and what it writes as one means nothing. Everything here is a value under its
//! owner's lock that reaches the machine through [`Bus`], and is tested on the host.

mod bar;
mod capability;
mod function;
mod functions;
mod msi;
mod msix;
mod route;

#[cfg(test)]
mod tests;

use xenolith_core::boot::PhysRange;

use crate::vlapic::Message;

pub use functions::{Functions, Place};

/// A function's address: bus in bits 8 to 15, device in 3 to 7, function in 0 to 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bdf(pub u16);

/// What a device writes to signal: the address, and the data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Signal {
    /// Where to.
    pub address: u64,
    /// What.
    pub data: u32,
}

impl Signal {
    /// The interrupt message that it is; none if it is no good one.
    #[must_use]
    pub fn message(&self) -> Option<Message> {
        // The controllers read 16 bits.
        Message::from_msi(self.address, self.data & 0xffff)
            .filter(|message| !message.has_illegal_vector())
    }
}

/// What a domain makes of its devices' messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wants {
    /// It writes them, for its interrupt controllers.
    Messages,
    /// It asks for a number for each that it wants.
    Numbers,
}

/// What the domain gets when a device signals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// The message that it wrote.
    Message(Signal),
    /// Its number for it.
    Number(u16),
}

/// A place for a signal of the domain, at which the machine's interrupts arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot(pub u32);

/// The machine, as far as configuring devices needs it.
pub trait Bus {
    /// Reads configuration space; `size` is 1, 2 or 4, and the bytes lie in one aligned word of four.
    fn config_read(&mut self, at: Bdf, register: u16, size: u8) -> u32;
    /// Writes it.
    fn config_write(&mut self, at: Bdf, register: u16, size: u8, value: u32);
    /// Reads a device's memory; `size` is 1, 2, 4 or 8, and the bytes lie in one page.
    fn memory_read(&mut self, address: u64, size: usize) -> u64;
    /// Writes it.
    fn memory_write(&mut self, address: u64, size: usize, value: u64);
    /// Finds a place for what the domain gets, and what the device must send for it. `None`: there is none left.
    fn open(&mut self, arrival: Arrival) -> Option<(Slot, Signal)>;
    /// Something else comes in the place from now on.
    fn change(&mut self, slot: Slot, arrival: Arrival);
    /// Nothing comes there any more.
    fn close(&mut self, slot: Slot);
    /// Whether a device's memory may be there: no RAM, no register that is the hypervisor's.
    fn may_hold(&self, range: PhysRange) -> bool;
    /// The same for ports.
    fn may_have_ports(&self, first: u64, size: u64) -> bool;
    /// The domain does not reach this range of device memory until it asks again.
    fn forget(&mut self, range: PhysRange);
}

/// Registers of the standard header.
mod register {
    pub(super) const VENDOR: u16 = 0x00;
    pub(super) const COMMAND: u16 = 0x04;
    pub(super) const CLASS: u16 = 0x08;
    pub(super) const HEADER: u16 = 0x0c;
    pub(super) const BARS: u16 = 0x10;
    pub(super) const BUS_NUMBERS: u16 = 0x18;
    pub(super) const CAPABILITIES: u16 = 0x34;
    /// First byte behind the header.
    pub(super) const HEADER_END: u16 = 0x40;
    /// First byte of the extended space, which only memory-mapped configuration reaches.
    pub(super) const EXTENDED: u16 = 0x100;
    /// End of the extended space.
    pub(super) const END: u16 = 0x1000;
}

/// Bits of the command register.
mod command {
    pub(super) const PORTS: u32 = 1 << 0;
    pub(super) const MEMORY: u32 = 1 << 1;
    pub(super) const MASTER: u32 = 1 << 2;
}

/// The part of an aligned word that an access of `size` bytes at `register` reads.
fn extract(word: u32, register: u16, size: u8) -> u32 {
    let value = word >> (u32::from(register & 3) * 8);
    value & mask(size)
}

/// The word with the bytes of such an access replaced.
fn merge(word: u32, register: u16, size: u8, value: u32) -> u32 {
    let shift = u32::from(register & 3) * 8;
    let mask = mask(size) << shift;
    word & !mask | value << shift & mask
}

const fn mask(size: u8) -> u32 {
    match size {
        1 => 0xff,
        2 => 0xffff,
        _ => u32::MAX,
    }
}
