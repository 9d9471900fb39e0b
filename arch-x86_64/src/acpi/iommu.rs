//! The units that remap what devices send, as Intel's and AMD's tables list them (DMAR: "Virtualization Technology for
//! Directed I/O", chapter 8; IVRS: "AMD I/O Virtualization Technology", chapter 5). They are found and kept from dom0.
//!
//! An entry that lies about its size ends the walk.

use alloc::vec::Vec;
use core::fmt;

use xenolith_core::boot::PhysRange;
use xenolith_hal::PAGE_SIZE;

use super::{HEADER, half, long};

/// Whose way of remapping it is, as its table is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Intel's.
    Dmar,
    /// AMD's.
    Ivrs,
}

/// What a table says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Iommus {
    /// Whose.
    pub kind: Kind,
    /// Where the registers of each unit are.
    pub units: Vec<PhysRange>,
    /// Ranges of memory that devices use by firmware's arrangement.
    pub reserved: usize,
}

/// Both tables have twelve bytes of their own before the entries.
const FIRST: usize = HEADER + 12;
/// No machine has more units.
const MOST_UNITS: usize = 64;

impl Iommus {
    /// Reads a whole table; `None` when it is too short.
    #[must_use]
    pub fn parse(kind: Kind, table: &[u8]) -> Option<Self> {
        let mut found = Self {
            kind,
            units: Vec::new(),
            reserved: 0,
        };
        let mut rest = table.get(FIRST..)?;
        while !rest.is_empty() {
            let size = usize::from(half(rest, 2).unwrap_or(0));
            let (Some(entry), true) = (rest.get(..size), size >= 4) else {
                break;
            };
            match kind {
                Kind::Dmar => found.add_intel(entry),
                Kind::Ivrs => found.add_amd(entry),
            };
            rest = rest.get(size..)?;
        }
        Some(found)
    }

    fn add_intel(&mut self, entry: &[u8]) -> Option<()> {
        const UNIT: u16 = 0;
        const RESERVED: u16 = 1;
        match half(entry, 0)? {
            UNIT => {
                // The entry tells the size of the registers as a power of two of pages, where the table is so new.
                let shift = entry.get(5).map_or(0, |size| size & 0xf);
                self.add_unit(long(entry, 8)?, (PAGE_SIZE as u64) << shift)
            }
            RESERVED => {
                self.reserved += 1;
                Some(())
            }
            _ => None,
        }
    }

    fn add_amd(&mut self, entry: &[u8]) -> Option<()> {
        /// One unit has an entry of each of these kinds, of which a reader takes what it knows.
        const UNIT: [u8; 3] = [0x10, 0x11, 0x40];
        const RESERVED: [u8; 3] = [0x20, 0x21, 0x22];
        const REGISTERS: u64 = 16 << 10;
        match *entry.first()? {
            kind if UNIT.contains(&kind) => self.add_unit(long(entry, 8)?, REGISTERS),
            kind if RESERVED.contains(&kind) => {
                self.reserved += 1;
                Some(())
            }
            _ => None,
        }
    }

    fn add_unit(&mut self, at: u64, size: u64) -> Option<()> {
        let start = at & !(PAGE_SIZE as u64 - 1);
        let range = PhysRange::new(start, size).filter(|_| at != 0)?;
        if !self.units.contains(&range) && self.units.len() < MOST_UNITS {
            self.units.push(range);
        }
        Some(())
    }
}

impl fmt::Display for Iommus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.kind {
            Kind::Dmar => "Intel's (DMAR)",
            Kind::Ivrs => "AMD's (IVRS)",
        };
        let (units, reserved) = (self.units.len(), self.reserved);
        write!(
            f,
            "{units} units of {name}, {reserved} reserved ranges: not driven, hidden from dom0"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(entries: &[&[u8]]) -> Vec<u8> {
        let mut table = std::vec![0; FIRST];
        entries.iter().for_each(|entry| table.extend(*entry));
        table
    }

    #[test]
    fn intel_s_units_are_found_with_their_registers() {
        let unit = |at: u32, size: u8| {
            let mut entry = std::vec![0, 0, 16, 0, 0, size, 0, 0];
            entry.extend(u64::from(at).to_le_bytes());
            entry
        };
        let reserved = [1, 0, 24, 0, 0, 0, 0, 0].repeat(3);
        let table = table(&[&unit(0xfed9_0000, 0), &reserved, &unit(0xfed9_2000, 1)]);
        let found = Iommus::parse(Kind::Dmar, &table).unwrap();
        let ranges = [(0xfed9_0000, 0x1000), (0xfed9_2000, 0x2000)];
        let ranges = ranges.map(|(at, size)| PhysRange::new(at, size).unwrap());
        assert_eq!((found.units.as_slice(), found.reserved), (&ranges[..], 1));
        assert_eq!(
            std::format!("{found}"),
            "2 units of Intel's (DMAR), 1 reserved ranges: not driven, hidden from dom0"
        );
    }

    #[test]
    fn a_unit_of_amd_s_counts_once_for_all_its_entries() {
        let unit = |kind: u8, at: u32| {
            let mut entry = std::vec![kind, 0, 24, 0, 2, 0, 0x40, 0];
            entry.extend(u64::from(at).to_le_bytes());
            entry.resize(24, 0);
            entry
        };
        let table = table(&[
            &unit(0x10, 0xfed8_0000),
            &unit(0x11, 0xfed8_0000),
            &unit(0x40, 0xfed8_0000),
            &unit(0x10, 0xfed0_0000),
            &[0x21, 0, 4, 0],
        ]);
        let found = Iommus::parse(Kind::Ivrs, &table).unwrap();
        assert_eq!((found.units.len(), found.reserved), (2, 1));
    }

    #[test]
    fn entries_that_lie_about_their_size_end_the_walk() {
        for kind in [Kind::Dmar, Kind::Ivrs] {
            for lie in [&[0u8, 0, 0, 0][..], &[0, 0, 200, 0], &[0, 0, 3, 0], &[0]] {
                let found = Iommus::parse(kind, &table(&[lie])).unwrap();
                assert!(found.units.is_empty());
            }
            let short = table(&[&[0, 0, 8, 0, 0, 0, 0, 0], &[0x10, 0, 8, 0, 0, 0, 0, 0]]);
            assert!(Iommus::parse(kind, &short).unwrap().units.is_empty());
            assert_eq!(Iommus::parse(kind, &[0; 30]), None);
        }
    }
}
