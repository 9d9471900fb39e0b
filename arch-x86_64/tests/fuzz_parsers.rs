//! The fuzz targets of `fuzz/` on a stable toolchain: those of x86-64.

#[path = "../../fuzz/bent.rs"]
mod bent;

use xenolith_arch_x86_64::domain_build::acpi_tables::fuzz_acpi;

/// A table of this content behind its header.
fn table(signature: &[u8; 4], content: &[&[u8]]) -> Vec<u8> {
    const HEADER: usize = 36;
    let mut table = signature.to_vec();
    table.resize(HEADER, 0);
    content.iter().for_each(|part| table.extend(*part));
    table
}

fn padded(start: &[u8], size: usize) -> Vec<u8> {
    let mut bytes = start.to_vec();
    bytes.resize(size, 0);
    bytes
}

#[test]
fn bent_acpi_tables_do_no_harm() {
    let madt = [
        &[0, 0, 0xe0, 0xfe, 1, 0, 0, 0][..],
        &[0, 8, 0, 0, 1, 0, 0, 0],
        &[9, 16, 0, 0, 0x2c, 1, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0],
        &[1, 12, 0, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0],
        &[2, 10, 0, 0, 2, 0, 0, 0, 0, 0],
        &[4, 6, 0xff, 0, 0, 1],
        &[5, 12, 0, 0, 0, 0, 0xe0, 0xfe, 0, 0, 0, 0],
        &[10, 12, 5, 0, 0x2c, 1, 0, 0, 1, 0, 0, 0],
    ];
    let srat = [
        &[1u8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0][..],
        &padded(&[0, 16, 1, 0, 1], 16),
        &padded(&[2, 24, 0, 0, 1, 0, 0, 0, 44, 1, 0, 0, 1], 24),
        &padded(
            &[1, 40, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 16],
            28,
        ),
        &padded(&[1], 12),
    ];
    let dmar = [
        &padded(&[38, 1], 12)[..],
        &[0, 0, 16, 0, 1, 0, 0, 0, 0, 0, 0xd9, 0xfe, 0, 0, 0, 0],
        &padded(&[1, 0, 24, 0], 24),
    ];
    let unit = [0x10, 0, 24, 0, 2, 0, 0x40, 0, 0, 0, 0xd8, 0xfe];
    let ivrs = [
        &padded(&[], 12)[..],
        &padded(&unit, 24),
        &padded(&[0x20, 0, 32, 0], 32),
    ];
    let mcfg = [
        &padded(&[], 8)[..],
        &padded(&[0, 0, 0, 0xb0, 0, 0, 0, 0, 0, 0, 0, 255], 16),
    ];
    let hpet = [&padded(&[1, 0xa2, 0x86, 0x80, 0, 0, 0, 0, 0, 0, 0xd0, 0xfe], 20)[..]];
    let code = [&b"\x10\x20_SB_\x08_S5_\x12\x06\x04\x0a\x05\x0b\x03\x00\x00\x00"[..]];
    let fadt = [&padded(&[0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 9], 208)[..]];
    let seeds = [
        table(b"APIC", &madt),
        table(b"SRAT", &srat),
        table(b"DMAR", &dmar),
        table(b"IVRS", &ivrs),
        table(b"MCFG", &mcfg),
        table(b"HPET", &hpet),
        table(b"SSDT", &code),
        table(b"FACP", &fadt),
    ];
    bent::drive("acpi", &seeds, 60_000, fuzz_acpi);
}
