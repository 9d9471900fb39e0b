use super::*;
use std::{boxed::Box, vec, vec::Vec};
use zerocopy::IntoBytes;

/// A little physical memory from 0x1000.
fn memory(bytes: Vec<u8>) -> impl Fn(u64, usize) -> Option<&'static [u8]> {
    // Aligned to eight bytes, as loaders leave it.
    let mut words = vec![0u64; bytes.len().div_ceil(8)];
    words.as_mut_bytes()[..bytes.len()].copy_from_slice(&bytes);
    let words: &'static [u64] = Box::leak(words.into_boxed_slice());
    let bytes = &words.as_bytes()[..bytes.len()];
    move |at, len| {
        let at = usize::try_from(at).ok()?.checked_sub(0x1000)?;
        bytes.get(at..at.checked_add(len)?)
    }
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

const RAM: PhysRange = PhysRange::between(0x10_0000, 0x4000_0000);

#[test]
fn a_pvh_start_info_gives_map_and_acpi() {
    let info = HvmStartInfo {
        magic: start_info::MAGIC,
        version: 1,
        rsdp_paddr: 0xf_5000,
        memmap_paddr: 0x1100,
        memmap_entries: 1,
        ..HvmStartInfo::default()
    };
    let entry = MemmapEntry {
        addr: RAM.start(),
        size: RAM.size(),
        kind: 1,
        reserved: 0,
    };
    let mut bytes = info.as_bytes().to_vec();
    bytes.resize(0x100, 0);
    bytes.extend(entry.as_bytes());
    let look = memory(bytes);
    let found = read(Protocol::Pvh, 0x1000, &look).unwrap();
    assert_eq!(found.rsdp, Some(0xf_5000));
    assert_eq!(
        found.map,
        vec![MapEntry {
            range: RAM,
            kind: 1
        }]
    );
}

#[test]
fn a_multiboot_1_map_is_walked_by_each_entrys_own_size() {
    let mut info = [0u32; 29];
    info[0] = 1 << 6;
    info[11] = 24 + 28;
    info[12] = 0x1100;
    let mut bytes = words(&info);
    bytes.resize(0x100, 0);
    bytes.extend(words(&[20, 0, 0, 0x9_f000, 0, 1]));
    let (start, size) = (RAM.start() as u32, RAM.size() as u32);
    bytes.extend(words(&[24, start, 0, size, 0, 1, 0]));
    let look = memory(bytes);
    let found = read(Protocol::Multiboot1, 0x1000, &look).unwrap();
    assert_eq!(found.map.len(), 2);
    assert_eq!(
        found.map[1],
        MapEntry {
            range: RAM,
            kind: 1
        }
    );
}

#[test]
fn multiboot_2_tags_give_command_line_map_and_acpi() {
    let (start, size) = (RAM.start() as u32, RAM.size() as u32);
    let text = |text: &[u8; 4]| u32::from_le_bytes(*text);
    let mut body = words(&[1, 12, text(b"a=b\0"), 0]);
    // GRUB 2 leaves the file's name out of the command line.
    body.extend(words(&[
        2,
        18,
        text(b"GRUB"),
        text(b" 2.0"),
        text(b"6\0\0\0"),
        0,
    ]));
    body.extend(words(&[6, 40, 24, 0, start, 0, size, 0, 1, 0]));
    body.extend(words(&[14, 28, 0, 0, 0, 0, 0, 0]));
    body.extend(words(&[0, 8]));
    let mut bytes = words(&[body.len() as u32 + 8, 0]);
    bytes.extend(body);
    let look = memory(bytes);
    let found = read(Protocol::Multiboot2, 0x1000, &look).unwrap();
    assert_eq!(found.command_line, "a=b");
    assert_eq!(
        found.map,
        vec![MapEntry {
            range: RAM,
            kind: 1
        }]
    );
    assert_eq!(found.rsdp, Some(0x1000 + 8 + 16 + 24 + 40 + 8));
}

#[test]
fn other_multiboot_loaders_begin_a_command_line_with_the_files_name() {
    let (start, size) = (RAM.start() as u32, RAM.size() as u32);
    let text = |text: &[u8; 4]| u32::from_le_bytes(*text);
    let mut body = words(&[1, 16, text(b"/xen"), text(b" a=b"), 0, 0]);
    body[4..8].copy_from_slice(&17u32.to_le_bytes());
    body.extend(words(&[6, 40, 24, 0, start, 0, size, 0, 1, 0]));
    body.extend(words(&[0, 8]));
    let mut bytes = words(&[body.len() as u32 + 8, 0]);
    bytes.extend(body);
    let look = memory(bytes);
    let found = read(Protocol::Multiboot2, 0x1000, &look).unwrap();
    assert_eq!(found.command_line, "a=b");
}

#[test]
fn garbage_of_every_length_is_an_error_and_never_a_panic() {
    let mut state = 1u64;
    for length in 0..600 {
        let bytes = (0..length)
            .map(|_| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                (state >> 40) as u8 & 0x3f
            })
            .collect();
        let look = memory(bytes);
        for protocol in [Protocol::Pvh, Protocol::Multiboot1, Protocol::Multiboot2] {
            let _ = read(protocol, 0x1000, &look);
        }
    }
}
