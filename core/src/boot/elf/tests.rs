use super::*;
use alloc::{string::ToString, vec, vec::Vec};
use proptest::prelude::*;

/// What a test kernel is made of: physical address, size in memory, bytes.
pub(in crate::boot) type Part = (u64, u64, Vec<u8>);

/// A note of Xen's.
pub(in crate::boot) fn note(id: u32, content: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for word in [4, content.len() as u32, id] {
        out.extend(word.to_le_bytes());
    }
    out.extend(b"Xen\0");
    out.extend(content);
    out.resize(out.len().next_multiple_of(4), 0);
    out
}

/// An ELF64 kernel with its notes in a note segment.
pub(in crate::boot) fn kernel64(parts: &[Part], entry: u32) -> Vec<u8> {
    let notes = [
        note(6, b"test\0"),
        note(18, &u64::from(entry).to_le_bytes()),
    ];
    with_notes(parts, entry, &notes)
}

/// An ELF64 kernel with these notes in a note segment.
pub(in crate::boot) fn with_notes(parts: &[Part], entry: u32, notes: &[Vec<u8>]) -> Vec<u8> {
    let notes = notes.concat();
    let table = 64 + 56 * (parts.len() + 1);
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    file.extend(2u16.to_le_bytes());
    file.extend(62u16.to_le_bytes());
    file.extend(1u32.to_le_bytes());
    file.extend(u64::from(entry).to_le_bytes());
    file.extend(64u64.to_le_bytes());
    file.extend(0u64.to_le_bytes());
    file.extend(0u32.to_le_bytes());
    for half in [64, 56, parts.len() as u16 + 1, 64, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    let mut at = table as u64;
    let mut header = |kind: u32, paddr: u64, filesz: u64, memsz: u64| {
        file.extend(kind.to_le_bytes());
        file.extend(7u32.to_le_bytes());
        for long in [at, paddr, paddr, filesz, memsz, 4] {
            file.extend(long.to_le_bytes());
        }
        at += filesz;
    };
    for (paddr, memsz, bytes) in parts {
        header(PT_LOAD, *paddr, bytes.len() as u64, *memsz);
    }
    header(PT_NOTE, 0, notes.len() as u64, notes.len() as u64);
    parts.iter().for_each(|part| file.extend(&part.2));
    file.extend(notes);
    file
}

/// An ELF32 kernel with its notes in a section only.
fn kernel32(entry: u32) -> Vec<u8> {
    let notes = note(18, &entry.to_le_bytes());
    let mut file = b"\x7fELF\x01\x01\x01".to_vec();
    file.resize(16, 0);
    file.extend(2u16.to_le_bytes());
    file.extend(3u16.to_le_bytes());
    for word in [1, entry, 52, 84, 0] {
        file.extend(u32::to_le_bytes(word));
    }
    for half in [52u16, 32, 1, 40, 1, 0] {
        file.extend(half.to_le_bytes());
    }
    for word in [PT_LOAD, 124, 0x10_0000, 0x10_0000, 4, 0x1000, 7, 4] {
        file.extend(word.to_le_bytes());
    }
    for word in [0, SHT_NOTE, 0, 0, 128, notes.len() as u32, 0, 0, 4, 0] {
        file.extend(word.to_le_bytes());
    }
    file.extend([1, 2, 3, 4]);
    file.extend(notes);
    file
}

fn sample() -> Vec<u8> {
    kernel64(
        &[
            (0x20_0000, 0x2000, vec![7; 0x1000]),
            (0x10_0000, 0x1000, vec![9; 16]),
        ],
        0x20_0010,
    )
}

#[test]
fn a_64_bit_kernel_tells_its_segments_and_its_entry() {
    let file = sample();
    let kernel = Elf::parse(&file).unwrap();
    assert_eq!(kernel.width, Width::Bits64);
    assert_eq!(kernel.pvh_entry(), Ok(0x20_0010));
    assert_eq!(kernel.extent(), PhysRange::between(0x10_0000, 0x20_2000));
    assert_eq!(kernel.segments[1].bytes, [9; 16]);
    assert_eq!(kernel.note(ElfNote::GuestOs), Some(&b"test\0"[..]));
}

#[test]
fn a_32_bit_kernel_may_have_its_notes_in_a_section() {
    let file = kernel32(0x10_0002);
    let kernel = Elf::parse(&file).unwrap();
    assert_eq!(kernel.width, Width::Bits32);
    assert_eq!(kernel.pvh_entry(), Ok(0x10_0002));
}

#[test]
fn what_is_no_kernel_is_named() {
    let refusal = |file: &[u8]| Elf::parse(file).unwrap_err().to_string();
    assert!(refusal(b"MZ").contains("not an ELF"));
    assert!(refusal(&sample()[..40]).contains("truncated"));
    assert!(refusal(&sample()[..0x800]).contains("bytes needed, 2048 present"));
    let changed = |at: usize, value: u8| {
        let mut file = sample();
        file[at] = value;
        refusal(&file)
    };
    assert!(changed(5, 2).contains("little-endian"));
    assert!(changed(18, 183).contains("number 183"));
    assert!(changed(16, 1).contains("type 1"));
}

#[test]
fn lies_about_sizes_and_places_are_refused() {
    let error = |parts: &[Part]| Elf::parse(&kernel64(parts, 0)).unwrap_err();
    assert_eq!(error(&[(0, 4, vec![0; 8])]), ElfError::Size(0));
    assert_eq!(error(&[(u64::MAX - 8, 64, vec![])]), ElfError::Size(0));
    assert_eq!(error(&[]), ElfError::Segments(0));
    assert!(matches!(
        error(&[(0x1000, 0x1000, vec![]), (0x1fff, 2, vec![])]),
        ElfError::Overlap(..)
    ));
    let many: Vec<Part> = (0..65).map(|i| (i * 16, 16, vec![])).collect();
    assert_eq!(error(&many), ElfError::Segments(65));
}

#[test]
fn an_entry_outside_every_segment_is_refused() {
    let file = kernel64(&[(0x10_0000, 16, vec![])], 0x10_0010);
    let error = Elf::parse(&file).unwrap().pvh_entry().unwrap_err();
    assert_eq!(error, ElfError::Entry(0x10_0010));
    let mut file = sample();
    let at = file.windows(4).rposition(|w| w == b"Xen\0").unwrap();
    file[at] = b'Y';
    let error = Elf::parse(&file).unwrap().pvh_entry().unwrap_err();
    assert!(error.to_string().contains("PHYS32_ENTRY"));
}

proptest! {
    #[test]
    fn any_bytes_are_survived(mut bytes in proptest::collection::vec(any::<u8>(), 0..400), wide in any::<bool>()) {
        fuzz_elf(&bytes);
        for (to, from) in bytes.iter_mut().zip([0x7f, b'E', b'L', b'F', 1 + u8::from(wide), 1, 1]) {
            *to = from;
        }
        fuzz_elf(&bytes);
    }

    #[test]
    fn damaged_kernels_are_survived(
        wide in any::<bool>(),
        damage in proptest::collection::vec((0usize..300, any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut file = if wide { sample() } else { kernel32(0x10_0002) };
        for (at, value) in damage {
            if let Some(byte) = file.get_mut(at) { *byte = value; }
        }
        fuzz_elf(&file);
        fuzz_elf(&file[..cut.index(file.len())]);
    }
}
