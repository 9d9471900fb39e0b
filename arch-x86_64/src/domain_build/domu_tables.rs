//! The ACPI of a domain without devices: root pointer, root table, FADT, an empty DSDT, and a MADT with its virtual CPUs.
//!
//! The FADT says "hardware-reduced", so that a kernel looks for none of the PC's old parts. ACPI Specification 6.4, 5.2.9.

use alloc::{vec, vec::Vec};

use super::acpi_tables::{ROOT_TABLE, header, local_apics, root_pointer, seal, set};
use crate::acpi::HEADER;

/// Bytes of a FADT of revision 6.
const FADT: usize = 276;

/// Bytes of the tables that [`build`] makes for so many virtual CPUs.
#[must_use]
pub fn size(vcpus: &[u32]) -> usize {
    build(vcpus, 0).len()
}

/// The tables for virtual CPUs with these APIC numbers, to be placed at guest-physical `at`, a multiple of 16. The root
/// pointer comes first.
#[must_use]
pub fn build(vcpus: &[u32], at: u64) -> Vec<u8> {
    let mut out = root_pointer(at.wrapping_add(ROOT_TABLE as u64));
    let fadt_at = (ROOT_TABLE + HEADER + 2 * 8).next_multiple_of(16);
    let dsdt_at = (fadt_at + FADT).next_multiple_of(16);
    let madt_at = (dsdt_at + HEADER).next_multiple_of(16);
    let address = |offset: usize| at.wrapping_add(offset as u64);

    let mut root_table = header(b"XSDT", 1);
    for table in [fadt_at, madt_at] {
        root_table.extend(address(table).to_le_bytes());
    }
    seal(&mut root_table);
    let mut dsdt = header(b"DSDT", 2);
    seal(&mut dsdt);
    let mut madt = local_apics(vcpus);
    seal(&mut madt);

    let tables = [
        (ROOT_TABLE, root_table),
        (fadt_at, fadt(address(dsdt_at))),
        (dsdt_at, dsdt),
        (madt_at, madt),
    ];
    for (offset, table) in tables {
        out.resize(offset, 0);
        out.extend(table);
    }
    out
}

fn fadt(dsdt: u64) -> Vec<u8> {
    const DSDT: usize = 40;
    const BOOT_FLAGS: usize = 109;
    const FLAGS: usize = 112;
    const MINOR_REVISION: usize = 131;
    const WIDE_DSDT: usize = 140;
    const HYPERVISOR: usize = 268;
    const NO_VGA: u16 = 1 << 2;
    const NO_CLOCK_CHIP: u16 = 1 << 5;
    const WBINVD: u32 = 1;
    const NO_POWER_BUTTON: u32 = 1 << 4;
    const NO_SLEEP_BUTTON: u32 = 1 << 5;
    const HARDWARE_REDUCED: u32 = 1 << 20;
    let mut out = header(b"FACP", 6);
    out.extend(vec![0; FADT - HEADER]);
    set(&mut out, DSDT, &(dsdt as u32).to_le_bytes());
    set(
        &mut out,
        BOOT_FLAGS,
        &(NO_VGA | NO_CLOCK_CHIP).to_le_bytes(),
    );
    let flags = WBINVD | NO_POWER_BUTTON | NO_SLEEP_BUTTON | HARDWARE_REDUCED;
    set(&mut out, FLAGS, &flags.to_le_bytes());
    set(&mut out, MINOR_REVISION, &[4]);
    set(&mut out, WIDE_DSDT, &dsdt.to_le_bytes());
    set(&mut out, HYPERVISOR, b"Xenolith");
    seal(&mut out);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::acpi;

    #[test]
    fn a_domain_finds_its_cpus_and_no_old_hardware() {
        const AT: u64 = 0x2000;
        let tables: &'static [u8] = build(&[0, 2, 600], AT).leak();
        assert_eq!(tables.len(), size(&[0, 2, 600]));
        let look = |at: u64, len: usize| {
            let start = usize::try_from(at.checked_sub(AT)?).ok()?;
            tables.get(start..start.checked_add(len)?)
        };
        let all = acpi::Acpi::read(AT, &look).unwrap();
        let ids: Vec<u32> = all.apic_ids().collect();
        assert_eq!(ids, [0, 2, 600]);
        let names: Vec<_> = all.tables.iter().map(|table| table.signature).collect();
        assert_eq!(names, [*b"FACP", *b"APIC"]);
        assert!(all.madt.ioapics.is_empty());
        assert_eq!(all.hpet, None);
    }
}
