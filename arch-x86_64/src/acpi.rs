//! ACPI tables, as far as the hypervisor needs them (ACPI Specification 6.4, 5.2.5 to 5.2.12); [`Acpi`] is what they say.
//! Tables are checked by their sums; nothing in them can make this fail otherwise than by a value.

pub mod fadt;
pub mod madt;
pub mod summary;

use alloc::vec::Vec;

use madt::Madt;
pub use summary::Acpi;

/// Gives the bytes at a physical address.
pub type Look<'l, 'm> = &'l dyn Fn(u64, usize) -> Option<&'m [u8]>;

/// The CPUs of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cpus {
    /// Physical address of the local APICs' registers.
    pub local_apic: u64,
    /// APIC numbers of the CPUs that can be used, as the tables list them.
    pub apic_ids: Vec<u32>,
}

pub(crate) const HEADER: usize = 36;

fn sums_to_zero(bytes: &[u8]) -> bool {
    bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)) == 0
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(
        bytes.get(at..at.checked_add(2)?)?.try_into().ok()?,
    ))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(
        bytes.get(at..at.checked_add(4)?)?.try_into().ok()?,
    ))
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(
        bytes.get(at..at.checked_add(8)?)?.try_into().ok()?,
    ))
}

/// Looks for the root pointer where BIOS firmware leaves it; loaders that know it tell it instead.
pub fn find_root(look: Look<'_, '_>) -> Option<u64> {
    const AREA: u64 = 0xe_0000;
    let area = look(AREA, 0x2_0000)?;
    let at = area
        .chunks_exact(16)
        .position(|chunk| chunk.starts_with(b"RSD PTR "))?;
    Some(AREA + at as u64 * 16)
}

/// Reads the CPUs from the tables that hang off the root pointer; the error says what is wrong.
pub fn cpus(root: u64, look: Look<'_, '_>) -> Result<Cpus, &'static str> {
    let tables = tables(root, look)?;
    let madt = tables
        .iter()
        .find(|table| table.signature == *b"APIC")
        .ok_or("ACPI has no table of interrupt controllers (MADT), or its sum is wrong")?;
    madt_cpus(madt.bytes).ok_or("the ACPI table of the interrupt controllers (MADT) is cut short")
}

/// A table of the machine.
#[derive(Clone, Copy, Debug)]
pub struct Table<'m> {
    /// Its signature.
    pub signature: [u8; 4],
    /// Its physical address.
    pub at: u64,
    /// All of it, header included; its sum is right.
    pub bytes: &'m [u8],
}

/// No machine has more tables.
const MOST_TABLES: usize = 256;

/// Every whole table that the root table lists.
fn tables<'m>(root: u64, look: Look<'_, 'm>) -> Result<Vec<Table<'m>>, &'static str> {
    const NO_ROOT: &str = "no ACPI root pointer: firmware or boot loader must give one";
    let old = look(root, 20).ok_or(NO_ROOT)?;
    if !old.starts_with(b"RSD PTR ") || !sums_to_zero(old) {
        return Err(NO_ROOT);
    }
    // Revision 2 has 64-bit addresses; an address of 0 there means that only the old table exists.
    let extended = old
        .get(15)
        .filter(|revision| **revision >= 2)
        .and_then(|_| look(root, 36))
        .filter(|new| sums_to_zero(new))
        .and_then(|new| long(new, 24))
        .filter(|at| *at != 0);
    let (list, width) = match extended {
        Some(at) => (whole(at, look), 8),
        None => (whole(word(old, 16).unwrap_or(0).into(), look), 4),
    };
    let list = list.ok_or("the ACPI root table cannot be read, or its sum is wrong")?;
    Ok(list
        .get(HEADER..)
        .unwrap_or_default()
        .chunks_exact(width)
        .take(MOST_TABLES)
        .filter_map(|entry| long(entry, 0).or_else(|| word(entry, 0).map(u64::from)))
        .filter_map(|at| {
            let bytes = whole(at, look)?;
            Some(Table {
                signature: *bytes.first_chunk()?,
                at,
                bytes,
            })
        })
        .collect())
}

/// A table with its header, if its sum is right.
fn whole<'m>(at: u64, look: Look<'_, 'm>) -> Option<&'m [u8]> {
    let size = word(look(at, HEADER)?, 4)? as usize;
    look(at, size).filter(|table| table.len() >= HEADER && sums_to_zero(table))
}

fn madt_cpus(table: &[u8]) -> Option<Cpus> {
    let madt = Madt::parse(table)?;
    let usable = madt.cpus.iter().filter(|cpu| cpu.enabled);
    Some(Cpus {
        local_apic: madt.local_apic,
        apic_ids: usable.map(|cpu| cpu.id).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;

    fn madt(entries: &[&[u8]]) -> Vec<u8> {
        let mut table = vec![0; HEADER];
        table.extend(0xfee0_0000u32.to_le_bytes());
        table.extend([0; 4]);
        entries.iter().for_each(|entry| table.extend(*entry));
        table
    }

    #[test]
    fn only_cpus_that_are_enabled_count() {
        let table = madt(&[
            &[0, 8, 0, 0, 1, 0, 0, 0],
            &[0x80, 4, 9, 9],
            &[0, 8, 1, 4, 0, 0, 0, 0],
            &[9, 16, 0, 0, 0x2c, 1, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0],
        ]);
        let cpus = madt_cpus(&table).unwrap();
        assert_eq!(
            (cpus.local_apic, cpus.apic_ids),
            (0xfee0_0000, vec![0, 300])
        );
    }

    #[test]
    fn entries_that_lie_about_their_size_end_the_walk() {
        assert_eq!(madt_cpus(&madt(&[&[0, 0, 0, 0]])), None);
        assert_eq!(madt_cpus(&madt(&[&[0, 200, 0, 0]])), None);
        assert_eq!(madt_cpus(&madt(&[&[9, 4, 0, 0]])), None);
        assert_eq!(madt_cpus(&[0; 30]), None);
    }

    #[test]
    fn a_root_pointer_that_is_none_is_named() {
        let nothing = |_: u64, _: usize| None;
        assert!(cpus(0x1000, &nothing).unwrap_err().contains("root pointer"));
        let zeroes = |_: u64, len: usize| [0u8; 64].get(..len).map(|b| &*b.to_vec().leak());
        assert!(cpus(0x1000, &zeroes).unwrap_err().contains("root pointer"));
    }
}
