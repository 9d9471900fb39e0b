//! Turns an ELF file into the flat binary that a boot loader puts in memory as it is.
//!
//! The loadable segments are laid out by physical address; the file starts at the lowest one, gaps are zero. Zeroed data
//! at the end (`.bss`) is left out: the image's own header tells the loader how much memory follows it.

use anyhow::{Result, bail};
use object::Endianness;
use object::elf::{FileHeader64, PT_LOAD};
use object::read::elf::{FileHeader, ProgramHeader};

/// No image of ours is near this size; a wrong address in a linker script easily is far above it.
const LARGEST: u64 = 64 << 20;

/// The loadable bytes of an ELF file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Flat {
    /// The physical address of the first byte.
    pub(crate) start: u64,
    /// What a loader copies there.
    pub(crate) bytes: Vec<u8>,
    /// Bytes of memory that the image occupies, zeroed data included.
    pub(crate) memory_size: u64,
}

/// Lays out the `PT_LOAD` segments of a 64-bit little-endian ELF file.
pub(crate) fn flatten(elf: &[u8]) -> Result<Flat> {
    let header = FileHeader64::<Endianness>::parse(elf)?;
    let endian = header.endian()?;
    let mut segments: Vec<(u64, u64, &[u8])> = Vec::new();
    for segment in header.program_headers(endian, elf)? {
        if segment.p_type(endian) != PT_LOAD || segment.p_memsz(endian) == 0 {
            continue;
        }
        let Ok(data) = segment.data(endian, elf) else {
            bail!("a segment of the ELF file lies outside the file")
        };
        segments.push((segment.p_paddr(endian), segment.p_memsz(endian), data));
    }
    segments.sort_by_key(|(address, ..)| *address);
    lay_out(&segments)
}

fn lay_out(segments: &[(u64, u64, &[u8])]) -> Result<Flat> {
    let Some(&(start, ..)) = segments.first() else {
        bail!("the ELF file has no loadable segment")
    };
    let mut flat = Flat {
        start,
        bytes: Vec::new(),
        memory_size: 0,
    };
    for &(address, memory_size, data) in segments {
        let offset = address - start;
        if offset > LARGEST || memory_size > LARGEST {
            bail!(
                "the ELF file's segments lie {offset:#x} bytes apart: check the load addresses of the linker script"
            );
        }
        if offset < flat.memory_size {
            bail!("two segments of the ELF file overlap at {address:#x}");
        }
        if !data.is_empty() {
            flat.bytes.resize(offset as usize, 0);
            flat.bytes.extend_from_slice(data);
        }
        flat.memory_size = offset + memory_size;
    }
    Ok(flat)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_zero_and_trailing_zeroed_data_is_left_out() {
        let flat = lay_out(&[
            (0x1000, 4, b"code"),
            (0x1008, 0x100, b"data"),
            (0x2000, 0x1000, b""),
        ])
        .unwrap();
        assert_eq!(flat.start, 0x1000);
        assert_eq!(flat.bytes, b"code\0\0\0\0data");
        assert_eq!(flat.memory_size, 0x2000);
    }

    #[test]
    fn zeroed_data_between_segments_is_filled_in() {
        let flat = lay_out(&[(0, 16, b"code"), (16, 4, b"data")]).unwrap();
        assert_eq!(flat.bytes.len(), 20);
        assert_eq!(&flat.bytes[4..16], [0; 12]);
    }

    #[test]
    fn overlapping_or_scattered_segments_are_refused() {
        assert!(lay_out(&[(0, 16, b"code"), (8, 4, b"data")]).is_err());
        assert!(lay_out(&[(0, 16, b"code"), (1 << 40, 4, b"data")]).is_err());
        assert!(lay_out(&[]).is_err());
    }

    #[test]
    fn a_file_that_is_no_elf_is_refused() {
        assert!(flatten(b"not an ELF file").is_err());
    }
}
