//! The fuzz targets of `fuzz/` on a stable toolchain: those of x86-64.

#[path = "../../fuzz/bent.rs"]
mod bent;

use xenolith_arch_x86_64::domain_build::{acpi_tables::fuzz_acpi, pv::fuzz::fuzz_pv_kernel};

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

/// An ELF64 kernel of one segment with these notes of Xen's.
fn pv_kernel(place: u64, size: u64, notes: &[(u32, &[u8])]) -> Vec<u8> {
    const HEADERS: u64 = 64 + 2 * 56;
    let text = [0x90; 600];
    let mut area = Vec::new();
    for (number, content) in notes {
        for word in [4, content.len() as u32, *number] {
            area.extend(word.to_le_bytes());
        }
        area.extend(b"Xen\0");
        area.extend(*content);
        area.resize(area.len().next_multiple_of(4), 0);
    }
    let mut file = padded(b"\x7fELF\x02\x01\x01", 16);
    file.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    for long in [place, 64, 0] {
        file.extend(long.to_le_bytes());
    }
    file.extend([0; 4]);
    for half in [64u16, 56, 2, 64, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    let stored = text.len() as u64;
    let behind = HEADERS + stored;
    let loaded = (1u32, HEADERS, place, stored, size);
    let noted = (4u32, behind, 0, area.len() as u64, area.len() as u64);
    for (kind, offset, place, stored, size) in [loaded, noted] {
        file.extend(kind.to_le_bytes());
        file.extend(7u32.to_le_bytes());
        for long in [offset, place, place, stored, size, 4] {
            file.extend(long.to_le_bytes());
        }
    }
    file.extend(text);
    file.extend(area);
    file
}

#[test]
fn bent_pv_kernels_do_no_harm() {
    let word = |value: u64| value.to_le_bytes();
    let base = 0xffff_ffff_8000_0000u64;
    let linux = [
        (3, &word(base)[..]),
        (15, &word(0x80_0000_0000)),
        (1, &word(base + 0x100_0040)),
        (10, b"!writable_page_tables|pae_pgdir_above_4gb\0"),
        (17, &[1, 0x88, 0, 0]),
        (8, b"generic\0"),
        (13, &[word(1), word(1)].concat()),
        (16, &[1, 0, 0, 0]),
        (12, &word(0xffff_8000_0000_0000)),
        (5, b"xen-3.0\0"),
    ];
    let small = [
        (1, &word(0x10_0000)[..]),
        (2, &word(0x10_1000)),
        (6, b"small\0"),
    ];
    let offset = [
        (1, &word(base + 4)[..]),
        (3, &word(base)),
        (4, &word(0x20_0000)),
    ];
    let seeds = [
        pv_kernel(0x100_0000, 0x30_0123, &linux),
        pv_kernel(0x10_0000, 0x3000, &small),
        pv_kernel(0x20_0000, 600, &offset),
    ];
    bent::drive("pv_kernel", &seeds, 60_000, fuzz_pv_kernel);
}
