//! Message-signalled interrupts (6.8.1): one message for each function, whatever the device could do, with the masking of
//! single messages where the device has it.

use xenolith_core::Errno;

use super::{Bdf, Bus, Wants, route::Route};

const ENABLE: u32 = 1 << 16;
const WIDE: u32 = 1 << 23;
const MASKABLE: u32 = 1 << 24;
/// The half of the first word that is the domain's, of which it writes only the enabling.
const CONTROL: u16 = 2;

/// The capability of one function.
#[derive(Debug)]
pub(super) struct Msi {
    at: u16,
    wide: bool,
    maskable: bool,
    enabled: bool,
    masked: bool,
    wants: Wants,
    route: Route,
}

impl Msi {
    /// Takes over a capability; the device sends nothing.
    pub(super) fn new(bus: &mut impl Bus, function: Bdf, at: u16, wants: Wants) -> Self {
        let control = bus.config_read(function, at, 4);
        let msi = Self {
            at,
            wide: control & WIDE != 0,
            maskable: control & MASKABLE != 0,
            enabled: false,
            masked: false,
            wants,
            route: Route::default(),
        };
        bus.config_write(function, at + CONTROL, 2, 0);
        msi
    }

    /// Offsets of the registers: data, mask.
    fn places(&self) -> (u16, u16) {
        if self.wide { (12, 16) } else { (8, 12) }
    }

    /// Where a register is in the capability; none if it is not in it.
    fn offset(&self, register: u16) -> Option<u16> {
        let (data, mask) = self.places();
        let end = if self.maskable { mask + 8 } else { data + 4 };
        register.checked_sub(self.at).filter(|offset| *offset < end)
    }

    /// Reads an aligned word; none if it is not of the capability.
    pub(super) fn read(&self, bus: &mut impl Bus, function: Bdf, register: u16) -> Option<u32> {
        let offset = self.offset(register)?;
        let (data, mask) = self.places();
        let flag = |is: bool, bit: u32| if is { bit } else { 0 };
        Some(match offset {
            0 => {
                let identity = bus.config_read(function, register, 2);
                identity
                    | flag(self.enabled, ENABLE)
                    | flag(self.wide, WIDE)
                    | flag(self.maskable, MASKABLE)
            }
            4 => self.route.signal.address as u32,
            8 if self.wide => (self.route.signal.address >> 32) as u32,
            _ if offset == data => self.route.signal.data,
            _ if offset == mask => self.masked.into(),
            // Which message waits for its unmasking.
            _ => bus.config_read(function, register, 4) & 1,
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
        let Some(offset) = self.offset(register) else {
            return false;
        };
        let (data, mask) = self.places();
        let address = &mut self.route.signal.address;
        match offset {
            0 => self.enabled = value & ENABLE != 0,
            4 => *address = *address & !0xffff_ffff | u64::from(value & !3),
            8 if self.wide => *address = u64::from(value) << 32 | *address & 0xffff_ffff,
            _ if offset == data => self.route.signal.data = value & 0xffff,
            _ if offset == mask => self.masked = value & 1 != 0,
            _ => {}
        }
        self.update(bus, function);
        true
    }

    /// Makes the device do what the domain wants, as far as that is allowed.
    fn update(&mut self, bus: &mut impl Bus, function: Bdf) {
        if !self.enabled || self.route.arrival(self.wants).is_none() {
            bus.config_write(function, self.at + CONTROL, 2, 0);
            return self.route.rest(bus);
        }
        let Some(sent) = self.route.open(bus, self.wants) else {
            return;
        };
        let (data, mask) = self.places();
        bus.config_write(function, self.at + 4, 4, sent.address as u32);
        if self.wide {
            bus.config_write(function, self.at + 8, 4, (sent.address >> 32) as u32);
        }
        bus.config_write(function, self.at + data, 2, sent.data);
        if self.maskable {
            let mask_bits = if self.masked { u32::MAX } else { !1 };
            bus.config_write(function, self.at + mask, 4, mask_bits);
        }
        bus.config_write(function, self.at + CONTROL, 2, ENABLE >> 16);
    }

    /// The device sends nothing any more.
    pub(super) fn close(&mut self, bus: &mut impl Bus, function: Bdf) {
        bus.config_write(function, self.at + CONTROL, 2, 0);
        self.route.close(bus);
    }

    /// Gives the message a number. `EEXIST`: it has one; `ENOSPC`: the machine has no place left for it.
    pub(super) fn number(
        &mut self,
        bus: &mut impl Bus,
        function: Bdf,
        number: u16,
    ) -> Result<(), Errno> {
        if self.route.has_number() {
            return Err(Errno::EEXIST);
        }
        if !self.route.set_number(bus, Some(number)) {
            return Err(Errno::ENOSPC);
        }
        self.update(bus, function);
        Ok(())
    }

    /// Takes the number away.
    pub(super) fn forget_number(&mut self, bus: &mut impl Bus, function: Bdf) {
        bus.config_write(function, self.at + CONTROL, 2, 0);
        self.route.set_number(bus, None);
    }

    /// The device was reset: it is told again what it was told before.
    pub(super) fn restore(&mut self, bus: &mut impl Bus, function: Bdf) {
        self.update(bus, function);
    }
}
