//! Where one message of a device goes: what the domain asked for, and the place of the hypervisor's that the device was told.

use super::{Arrival, Bus, Signal, Slot, Wants};

/// One message of a device.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Route {
    /// What the domain wrote into the device.
    pub(super) signal: Signal,
    /// The number that it got for the message.
    number: Option<u16>,
    open: Option<(Slot, Signal)>,
}

impl Route {
    /// What the domain gets; none while there is nothing to get.
    pub(super) fn arrival(&self, wants: Wants) -> Option<Arrival> {
        match wants {
            Wants::Messages => self.signal.message().map(|_| Arrival::Message(self.signal)),
            Wants::Numbers => self.number.map(Arrival::Number),
        }
    }

    /// Whether the domain has a number for the message.
    pub(super) fn has_number(&self) -> bool {
        self.number.is_some()
    }

    /// Gives the message a number, or takes it away. A place is found with the number and stays with it, whatever the domain
    /// makes of the device. False: no place is left.
    pub(super) fn set_number(&mut self, bus: &mut impl Bus, number: Option<u16>) -> bool {
        self.number = number;
        match number {
            Some(_) if self.open(bus, Wants::Numbers).is_none() => {
                self.number = None;
                false
            }
            Some(_) => true,
            None => {
                self.close(bus);
                true
            }
        }
    }

    /// What the device must send, from now on.
    pub(super) fn open(&mut self, bus: &mut impl Bus, wants: Wants) -> Option<Signal> {
        let arrival = self.arrival(wants)?;
        let (slot, sent) = match self.open {
            Some(open) => {
                bus.change(open.0, arrival);
                open
            }
            None => bus.open(arrival)?,
        };
        self.open = Some((slot, sent));
        Some(sent)
    }

    /// The device sends nothing now: what has no number needs no place.
    pub(super) fn rest(&mut self, bus: &mut impl Bus) {
        if self.number.is_none() {
            self.close(bus);
        }
    }

    /// The device sends nothing any more.
    pub(super) fn close(&mut self, bus: &mut impl Bus) {
        if let Some((slot, _)) = self.open.take() {
            bus.close(slot);
        }
    }
}
