//! dom0's ACPI: its own root pointer, root table and interrupt-controller table (MADT), which lists virtual CPUs and the
//! machine's I/O APICs; every other table is the machine's, at its place.
//!
//! What would make dom0 drive what is the hypervisor's is left out: IOMMUs, the HPET, NUMA tables. ACPI Specification 6.4, 5.2.5 to 5.2.12.

use alloc::vec::Vec;

use crate::acpi::{Acpi, HEADER, madt::entry, summary::ConfigSpace};

/// Tables that dom0 does not see. Its MADT is its own.
const HIDDEN: [&[u8; 4]; 8] = [
    b"APIC", b"DMAR", b"IVRS", b"HPET", b"SRAT", b"SLIT", b"WAET", b"ERST",
];

const ROOT_POINTER: usize = 36;
/// Where the root table starts, from the root pointer on.
pub(super) const ROOT_TABLE: usize = 64;
/// The largest number that a xAPIC entry can hold.
const LAST_XAPIC: u32 = 254;

/// Host tables that dom0 sees too.
fn kept<'a>(acpi: &'a Acpi<'_>) -> impl Iterator<Item = u64> + 'a {
    let tables = acpi.tables.iter();
    tables
        .filter(|table| !HIDDEN.contains(&&table.signature))
        .map(|table| table.at)
}

/// Bytes of the tables that [`build`] makes for so many virtual CPUs.
#[must_use]
pub fn size(acpi: &Acpi<'_>, vcpus: &[u32]) -> usize {
    build(acpi, vcpus, 0).len()
}

/// The tables for virtual CPUs with these APIC numbers, to be placed at guest-physical `at`, a multiple of 16. The root
/// pointer comes first.
#[must_use]
pub fn build(acpi: &Acpi<'_>, vcpus: &[u32], at: u64) -> Vec<u8> {
    let madt = madt(acpi, vcpus);
    let count = kept(acpi).count() + 1;
    let madt_at = (ROOT_TABLE + HEADER + 8 * count).next_multiple_of(16);

    let mut root_table = header(b"XSDT", 1);
    root_table.extend(at.wrapping_add(madt_at as u64).to_le_bytes());
    kept(acpi).for_each(|table| root_table.extend(table.to_le_bytes()));
    seal(&mut root_table);

    let mut out = root_pointer(at.wrapping_add(ROOT_TABLE as u64));
    out.resize(ROOT_TABLE, 0);
    out.extend(root_table);
    out.resize(madt_at, 0);
    out.extend(madt);
    out
}

pub(super) fn root_pointer(root_table: u64) -> Vec<u8> {
    const OLD: usize = 20;
    const REVISION: u8 = 2;
    let mut out = Vec::with_capacity(ROOT_POINTER);
    out.extend(b"RSD PTR \0XENOLI");
    out.push(REVISION);
    // No table for those who know only 32 bits.
    out.extend(0u32.to_le_bytes());
    out.extend((ROOT_POINTER as u32).to_le_bytes());
    out.extend(root_table.to_le_bytes());
    out.resize(ROOT_POINTER, 0);
    let old = sum(out.get(..OLD).unwrap_or_default());
    set(&mut out, 8, &[old]);
    let all = sum(&out);
    set(&mut out, 32, &[all]);
    out
}

pub(super) fn header(signature: &[u8; 4], revision: u8) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend(signature);
    out.extend([0; 4]);
    out.extend([revision, 0]);
    out.extend(b"XENOLIXENOLITH");
    out.extend(1u32.to_le_bytes());
    out.extend(b"XENO");
    out.extend(1u32.to_le_bytes());
    out
}

/// Fills in a table's length and sum.
pub(super) fn seal(table: &mut [u8]) {
    let length = (table.len() as u32).to_le_bytes();
    set(table, 4, &length);
    let missing = sum(table);
    set(table, 9, &[missing]);
}

/// What makes the sum of the bytes zero.
fn sum(bytes: &[u8]) -> u8 {
    bytes
        .iter()
        .fold(0u8, |sum, byte| sum.wrapping_add(*byte))
        .wrapping_neg()
}

pub(super) fn set(bytes: &mut [u8], at: usize, value: &[u8]) {
    for (to, from) in bytes.iter_mut().skip(at).zip(value) {
        *to = *from;
    }
}

fn madt(acpi: &Acpi<'_>, vcpus: &[u32]) -> Vec<u8> {
    let mut out = local_apics(vcpus);
    for ioapic in &acpi.madt.ioapics {
        out.extend([entry::IO_APIC, 12, ioapic.id, 0]);
        out.extend(ioapic.at.to_le_bytes());
        out.extend(ioapic.first.to_le_bytes());
    }
    for change in &acpi.madt.overrides {
        out.extend([entry::OVERRIDE, 10, 0, change.source]);
        out.extend(change.gsi.to_le_bytes());
        out.extend(change.flags.to_le_bytes());
    }
    seal(&mut out);
    out
}

/// A MADT with the local APICs of virtual CPUs, not sealed yet.
pub(super) fn local_apics(vcpus: &[u32]) -> Vec<u8> {
    let mut out = header(b"APIC", 4);
    out.extend(0xfee0_0000u32.to_le_bytes());
    out.extend(0u32.to_le_bytes());
    for (uid, id) in (0u32..).zip(vcpus) {
        // Both kinds must not name one CPU; numbers that do not fit the old kind take the new one.
        if *id <= LAST_XAPIC && uid <= LAST_XAPIC {
            out.extend([entry::LOCAL_APIC, 8, uid as u8, *id as u8]);
            out.extend(entry::ENABLED.to_le_bytes());
        } else {
            out.extend([entry::LOCAL_X2APIC, 16, 0, 0]);
            out.extend(id.to_le_bytes());
            out.extend(entry::ENABLED.to_le_bytes());
            out.extend(uid.to_le_bytes());
        }
    }
    out
}

/// Reads any bytes as a table of the machine, its length and sum put right, and makes dom0's tables from it.
#[doc(hidden)]
pub fn fuzz_acpi(bytes: &[u8]) {
    const AT: u64 = 0x1000;
    let mut table = bytes.to_vec();
    table.resize(table.len().max(HEADER), 0);
    set(&mut table, 9, &[0]);
    seal(&mut table);
    let mut sound = local_apics(&[0, 600]);
    seal(&mut sound);
    let table_at = AT + (ROOT_TABLE + HEADER + 16) as u64;
    let sound_at = table_at + table.len() as u64;
    let mut root_table = header(b"XSDT", 1);
    root_table.extend(table_at.to_le_bytes());
    root_table.extend(sound_at.to_le_bytes());
    seal(&mut root_table);
    let mut memory = root_pointer(AT + ROOT_TABLE as u64);
    memory.resize(ROOT_TABLE, 0);
    [root_table, table, sound]
        .into_iter()
        .for_each(|part| memory.extend(part));

    let look = |at: u64, len: usize| {
        let start = usize::try_from(at.checked_sub(AT)?).ok()?;
        memory.get(start..start.checked_add(len)?)
    };
    if let Ok(acpi) = Acpi::read(AT, &look) {
        let ids: Vec<u32> = acpi.apic_ids().collect();
        assert!(ids.len() <= memory.len() && !build(&acpi, &ids, AT).is_empty());
        for range in acpi.iommus.iter().flat_map(|iommus| &iommus.units) {
            assert!(range.size() <= 128 << 20);
        }
        let _ = acpi.config_spaces.iter().map(ConfigSpace::range).count();
    }
}
