//! The table of what is near to what (SRAT; ACPI Specification 6.4, 5.2.16): only counted, for the line that reports it.
//!
//! An entry that is cut short or not in use counts nothing; one that lies about its size ends the walk.

use alloc::collections::BTreeSet;
use core::fmt;

use super::{HEADER, long, word};

/// What the table says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Srat {
    /// Numbers of the nodes (proximity domains) that have a CPU or memory.
    pub nodes: BTreeSet<u32>,
    /// CPUs that can be used.
    pub cpus: usize,
    /// Ranges of memory that are in use.
    pub ranges: usize,
    /// Bytes in them.
    pub bytes: u64,
}

/// Where the entries begin: behind a word that is 1 and eight bytes of nothing.
const FIRST: usize = HEADER + 12;

impl Srat {
    /// Reads a whole table; `None` when it is too short.
    #[must_use]
    pub fn parse(table: &[u8]) -> Option<Self> {
        let mut srat = Self::default();
        let mut rest = table.get(FIRST..)?;
        while let [kind, size, ..] = *rest {
            let (Some(entry), true) = (rest.get(..size.into()), size >= 2) else {
                break;
            };
            let _ = srat.add(kind, entry);
            rest = rest.get(size.into()..)?;
        }
        Some(srat)
    }

    fn add(&mut self, kind: u8, entry: &[u8]) -> Option<()> {
        const LOCAL_APIC: u8 = 0;
        const MEMORY: u8 = 1;
        const LOCAL_X2APIC: u8 = 2;
        const ENABLED: u32 = 1;
        let (node, flags) = match kind {
            // The upper three bytes of the number stand apart, after the flags and a byte of another meaning.
            LOCAL_APIC => {
                let low = u32::from(*entry.get(2)?);
                (word(entry, 8)? & !0xff | low, word(entry, 4)?)
            }
            MEMORY => (word(entry, 2)?, word(entry, 28)?),
            LOCAL_X2APIC => (word(entry, 4)?, word(entry, 12)?),
            _ => return None,
        };
        if flags & ENABLED == 0 {
            return None;
        }
        if kind == MEMORY {
            let bytes = long(entry, 16).filter(|bytes| *bytes != 0)?;
            self.bytes = self.bytes.saturating_add(bytes);
            self.ranges += 1;
        } else {
            self.cpus += 1;
        }
        self.nodes.insert(node);
        Some(())
    }
}

impl fmt::Display for Srat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (nodes, cpus, ranges, mib) =
            (self.nodes.len(), self.cpus, self.ranges, self.bytes >> 20);
        write!(
            f,
            "{nodes} nodes with {cpus} CPUs and {mib} MiB in {ranges} ranges; memory is given without regard to them"
        )
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;

    fn table(entries: &[&[u8]]) -> Vec<u8> {
        let mut table = std::vec![0; FIRST];
        entries.iter().for_each(|entry| table.extend(*entry));
        table
    }

    fn memory(node: u32, mib: u64, flags: u32) -> Vec<u8> {
        let mut entry = std::vec![1, 40];
        entry.extend(node.to_le_bytes());
        entry.extend([0; 2 + 8]);
        entry.extend((mib << 20).to_le_bytes());
        entry.extend([0; 4]);
        entry.extend(flags.to_le_bytes());
        entry.resize(40, 0);
        entry
    }

    fn xapic(node: [u8; 4], id: u8, flags: u8) -> [u8; 16] {
        let [low, a, b, c] = node;
        [0, 16, low, id, flags, 0, 0, 0, 7, a, b, c, 0, 0, 0, 0]
    }

    #[test]
    fn nodes_are_counted_by_what_is_in_use() {
        let x2apic = [
            2, 24, 0, 0, 2, 1, 0, 0, 44, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        ];
        let table = table(&[
            &xapic([0, 0, 0, 0], 0, 1),
            &xapic([9, 0, 0, 0], 1, 0),
            &xapic([2, 1, 0, 0], 2, 1),
            &x2apic,
            &memory(0, 640, 1),
            &memory(1, 384, 1),
            &memory(5, 384, 0),
            &memory(6, 0, 1),
            &[0x80, 3, 1],
        ]);
        let srat = Srat::parse(&table).unwrap();
        assert_eq!(srat.nodes.iter().copied().collect::<Vec<_>>(), [0, 1, 258]);
        assert_eq!((srat.cpus, srat.ranges, srat.bytes >> 20), (3, 2, 1024));
        assert_eq!(
            std::format!("{srat}"),
            "3 nodes with 3 CPUs and 1024 MiB in 2 ranges; memory is given without regard to them"
        );
    }

    #[test]
    fn entries_that_lie_about_their_size_end_the_walk() {
        for lie in [&[1u8, 0][..], &[1, 200], &[0, 1], &[1]] {
            let table = table(&[&memory(3, 1, 1), lie]);
            assert_eq!(Srat::parse(&table).unwrap().ranges, 1);
        }
        assert_eq!(Srat::parse(&[0; 20]), None);
        let short = table(&[&[1, 8, 0, 0, 0, 0, 0, 0]]);
        assert_eq!(Srat::parse(&short), Some(Srat::default()));
    }
}
