//! A host bridge, a disk with MSI, a network card with MSI-X, an interrupt controller that is a PCI function.

use std::{collections::BTreeMap, vec, vec::Vec};

use xenolith_core::boot::PhysRange;

use super::super::*;

pub(super) const HOST_BRIDGE: Bdf = Bdf(0x00);
pub(super) const DISK: Bdf = Bdf(0x08);
pub(super) const NETWORK: Bdf = Bdf(0x10);
pub(super) const IOAPIC: Bdf = Bdf(0x28);

pub(super) const MSI_AT: u16 = 0x50;
pub(super) const MSIX_AT: u16 = 0x60;
/// The network card's registers: 16 KiB, with a table of four messages in the third page.
pub(super) const BAR: u64 = 0xfe00_0000;
pub(super) const TABLE: u64 = BAR + 0x2000;
const KEPT: PhysRange = PhysRange::between(0xfec0_0000, 0xfef0_0000);
const RAM: PhysRange = PhysRange::between(0, 0x4000_0000);

struct Device {
    at: Bdf,
    words: Vec<u32>,
    /// Which bits of a word can be written.
    writable: Vec<u32>,
}

impl Device {
    fn new(at: Bdf, class: u32) -> Self {
        let mut device = Self {
            at,
            words: vec![0; 1024],
            writable: vec![0; 1024],
        };
        device.set(0, 0x1234_8086, 0);
        device.set(4, 7, 7);
        device.set(8, class << 16, 0);
        device
    }

    fn set(&mut self, register: u16, value: u32, writable: u32) {
        let index = usize::from(register / 4);
        self.words[index] = value;
        self.writable[index] = writable;
    }

    fn capabilities(&mut self, first: u16) {
        self.set(4, 0x10_0007, 7);
        self.set(0x34, first.into(), 0);
    }
}

pub(super) struct Fake {
    devices: Vec<Device>,
    memory: BTreeMap<u64, u32>,
    /// What the domain asked for, in each place.
    pub(super) open: Vec<Option<Arrival>>,
    pub(super) full: bool,
    pub(super) forgotten: Vec<PhysRange>,
}

impl Fake {
    pub(super) fn new() -> Self {
        let mut bridge = Device::new(HOST_BRIDGE, 0x0600);
        bridge.set(0x60, 0xe000_0001, u32::MAX);
        let mut disk = Device::new(DISK, 0x0106);
        disk.capabilities(MSI_AT);
        // Wide, eight messages.
        disk.set(MSI_AT, 0x0086_0005, 0x0071_0000);
        for offset in [4, 8, 12] {
            disk.set(MSI_AT + offset, 0, u32::MAX);
        }
        let mut network = Device::new(NETWORK, 0x0200);
        network.capabilities(MSIX_AT);
        network.set(0x10, BAR as u32, 0xffff_c000);
        network.set(MSIX_AT, 0x0003_0011, 0xc000_0000);
        network.set(MSIX_AT + 4, 0x2000, 0);
        network.set(MSIX_AT + 8, 0x3000, 0);
        network.set(0x100, 0x1400_0003, 0);
        network.set(0x104, 0, u32::MAX);
        network.set(0x140, 0x0000_0015, 0);
        network.set(0x148, 0, u32::MAX);
        let mut ioapic = Device::new(IOAPIC, 0x0800);
        ioapic.set(0x10, 0xfec0_0000, 0xffff_f000);
        Self {
            devices: vec![bridge, disk, network, ioapic],
            memory: BTreeMap::new(),
            open: Vec::new(),
            full: false,
            forgotten: Vec::new(),
        }
    }

    /// What a device is told for a place.
    pub(super) fn physical(slot: usize) -> Signal {
        Signal {
            address: 0xfee0_1000,
            data: 0xa0 + slot as u32,
        }
    }

    pub(super) fn word(&self, at: Bdf, register: u16) -> u32 {
        let device = self.devices.iter().find(|device| device.at == at);
        device.map_or(u32::MAX, |device| device.words[usize::from(register / 4)])
    }

    pub(super) fn memory_word(&self, address: u64) -> u32 {
        self.memory.get(&address).copied().unwrap_or(0)
    }

    /// The message that a wide MSI capability holds.
    pub(super) fn sent(&self, at: Bdf, capability: u16) -> Signal {
        let high = self.word(at, capability + 8);
        Signal {
            address: u64::from(high) << 32 | u64::from(self.word(at, capability + 4)),
            data: self.word(at, capability + 12),
        }
    }

    /// Every message that a device could send now.
    pub(super) fn messages(&self) -> Vec<Signal> {
        let mut found = Vec::new();
        if self.word(DISK, MSI_AT) & 1 << 16 != 0 {
            found.push(self.sent(DISK, MSI_AT));
            // More than one message would be others.
            assert_eq!(self.word(DISK, MSI_AT) >> 20 & 7, 0);
        }
        let decodes = self.word(NETWORK, 4) & 2 != 0;
        if self.word(NETWORK, MSIX_AT) >> 30 == 2 && decodes {
            let table = u64::from(self.word(NETWORK, 0x10) & !0x3fff) + 0x2000;
            for entry in (0..4).map(|index| table + index * 16) {
                if self.memory_word(entry + 12) & 1 == 0 {
                    let high = self.memory_word(entry + 4);
                    found.push(Signal {
                        address: u64::from(high) << 32 | u64::from(self.memory_word(entry)),
                        data: self.memory_word(entry + 8),
                    });
                }
            }
        }
        found
    }
}

impl Bus for Fake {
    fn config_read(&mut self, at: Bdf, register: u16, size: u8) -> u32 {
        extract(self.word(at, register), register, size)
    }

    fn config_write(&mut self, at: Bdf, register: u16, size: u8, value: u32) {
        if let Some(device) = self.devices.iter_mut().find(|device| device.at == at) {
            let index = usize::from(register / 4);
            let (old, writable) = (device.words[index], device.writable[index]);
            let new = merge(old, register, size, value);
            device.words[index] = old & !writable | new & writable;
        }
    }

    fn memory_read(&mut self, address: u64, size: usize) -> u64 {
        let low = u64::from(self.memory_word(address & !3));
        let high = u64::from(self.memory_word((address & !3) + 4));
        let bits = (high << 32 | low) >> ((address & 3) * 8);
        if size == 8 {
            bits
        } else {
            bits & ((1 << (size * 8)) - 1)
        }
    }

    fn memory_write(&mut self, address: u64, _: usize, value: u64) {
        self.memory.insert(address & !3, value as u32);
    }

    fn open(&mut self, arrival: Arrival) -> Option<(Slot, Signal)> {
        if self.full {
            return None;
        }
        self.open.push(Some(arrival));
        let slot = self.open.len() - 1;
        Some((Slot(slot as u32), Self::physical(slot)))
    }

    fn change(&mut self, slot: Slot, arrival: Arrival) {
        self.open[slot.0 as usize] = Some(arrival);
    }

    fn close(&mut self, slot: Slot) {
        self.open[slot.0 as usize] = None;
    }

    fn may_hold(&self, range: PhysRange) -> bool {
        !range.overlaps(&RAM) && !range.overlaps(&KEPT) && range.end() <= 0xffff_8000
    }

    fn may_have_ports(&self, _: u64, _: u64) -> bool {
        true
    }

    fn forget(&mut self, range: PhysRange) {
        self.forgotten.push(range);
    }
}
