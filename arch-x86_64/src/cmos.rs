//! The real-time clock's two ports, 0x70 and 0x71, as dom0 sees them (MC146818).
//!
//! The clock is the machine's own: dom0 sets it, and its alarm interrupt is dom0's GSI 8, so a model would only lie. But
//! the ports are not given away: the index register's top bit would mask NMIs of the whole CPU, and the hypervisor reads
//! the clock too. So the guest's index is kept here, and an access of the data port becomes index and data as one pair,
//! under the caller's lock. Other domains have a clock page from Xen, and nothing at these ports.
//!
//! There is no model of the old interrupt controllers and interval timer: a PVH guest is told by its ACPI tables that
//! there are none, probes by writing and reading back, and takes all ones for "not there". So all ports of them read as
//! ones and drop writes.

/// Where the index is written.
pub const INDEX_PORT: u16 = 0x70;
/// Where the register is read and written.
pub const DATA_PORT: u16 = 0x71;
/// Bit of the index port that masks NMIs.
const NMI_OFF: u8 = 1 << 7;

/// What to do with the machine's ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortAccess {
    /// Nothing; a read gives this.
    None(u8),
    /// Write this to the index port, then read the data port.
    Read(u8),
    /// Write the first to the index port, then the second to the data port.
    Write(u8, u8),
}

/// The index that a guest has written last.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cmos {
    index: u8,
}

impl Cmos {
    /// The guest reads one byte of a port.
    #[must_use]
    pub const fn read(&self, port: u16) -> PortAccess {
        match port {
            DATA_PORT => PortAccess::Read(self.index),
            _ => PortAccess::None(0xff),
        }
    }

    /// The guest writes one byte to a port.
    pub const fn write(&mut self, port: u16, value: u8) -> PortAccess {
        match port {
            INDEX_PORT => self.index = value & !NMI_OFF,
            DATA_PORT => return PortAccess::Write(self.index, value),
            _ => {}
        }
        PortAccess::None(0xff)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_goes_with_the_guests_own_index_and_nmis_stay_on() {
        let mut cmos = Cmos::default();
        assert_eq!(cmos.write(INDEX_PORT, 0x8b), PortAccess::None(0xff));
        assert_eq!(cmos.read(DATA_PORT), PortAccess::Read(0x0b));
        assert_eq!(cmos.write(DATA_PORT, 2), PortAccess::Write(0x0b, 2));
        assert_eq!(cmos.read(INDEX_PORT), PortAccess::None(0xff));
    }
}
