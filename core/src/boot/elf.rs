//! Kernels in ELF: 32 and 64 bits wide, little-endian, for x86, with the notes that say how Xen starts them.
//!
//! A kernel that parses has only segments that lie in the file, do not wrap and do not overlap in memory. Formats: System V
//! ABI (object files); notes: `elfnote.h`. The library reads the tables; what they mean is checked here.

pub mod pv;
mod pv_error;

pub use pv_error::PvError;

use alloc::vec::Vec;
use core::fmt;

use elf::{
    ElfBytes,
    abi::{EM_386, EM_X86_64, ET_DYN, ET_EXEC, PT_LOAD, PT_NOTE, SHT_NOTE},
    endian::LittleEndian,
    file::Class,
    note::{Note, NoteIterator},
    parse::ParseError,
};
use xenolith_abi::elfnote::{self, ElfNote};

use super::range::PhysRange;

/// How wide the kernel's own addresses are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// 32 bits.
    Bits32,
    /// 64 bits.
    Bits64,
}

/// A piece of memory that the kernel wants filled.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    /// Where, physically; what the file does not fill is to be zero.
    pub memory: PhysRange,
    /// The virtual address of its first byte.
    pub virt: u64,
    /// Its first bytes.
    pub bytes: &'a [u8],
}

/// A kernel file that has been looked at.
#[derive(Clone, Debug)]
pub struct Elf<'a> {
    /// How wide it is.
    pub width: Width,
    /// For which machine it is, as the header numbers them.
    pub machine: u16,
    /// The entry that its header names.
    pub entry: u64,
    /// What is to be loaded, in the order of the headers; at least one.
    pub segments: Vec<Segment<'a>>,
    /// Xen's notes: number and content.
    pub notes: Vec<(u32, &'a [u8])>,
}

/// Why a file is no kernel that can be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ElfError {
    /// It does not start like ELF.
    NotElf,
    /// Its byte order or version is not for x86.
    Foreign,
    /// It is for another machine (the header's number).
    Machine(u16),
    /// It is not an executable (the header's number for what it is).
    Kind(u16),
    /// It ends before what its headers speak of.
    Truncated {
        /// Bytes that the headers ask for, where they say it.
        needed: Option<u64>,
        /// Bytes that are there.
        present: u64,
    },
    /// Its tables contradict themselves.
    Damaged,
    /// It has no segment to load, or more than anyone needs.
    Segments(usize),
    /// A segment has more bytes in the file than in memory, or wraps.
    Size(usize),
    /// Two segments lie at one place.
    Overlap(PhysRange, PhysRange),
    /// It has no note that gives the 32-bit entry.
    NoEntry,
    /// The entry does not lie in a segment below 4 GiB.
    Entry(u64),
}

impl fmt::Display for ElfError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "kernel: ")?;
        match self {
            Self::NotElf => write!(
                f,
                "not an ELF file; give vmlinux, bzImage or another PVH kernel"
            ),
            Self::Foreign => write!(
                f,
                "the ELF file is not little-endian, or of an unknown version"
            ),
            Self::Machine(number) => write!(
                f,
                "the ELF file is for another machine (number {number}); give one for x86"
            ),
            Self::Kind(number) => write!(
                f,
                "the ELF file is no executable (type {number}); give a linked kernel"
            ),
            Self::Truncated {
                needed: Some(needed),
                present,
            } => write!(
                f,
                "truncated: {needed} bytes needed, {present} present; load the whole file"
            ),
            Self::Truncated {
                needed: None,
                present,
            } => write!(
                f,
                "truncated: its {present} bytes do not hold its headers; load the whole file"
            ),
            Self::Damaged => write!(f, "the ELF headers are damaged; load the file again"),
            Self::Segments(count) => write!(
                f,
                "the ELF file has {count} segments to load; 1 to {MOST_SEGMENTS} can be"
            ),
            Self::Size(index) => write!(
                f,
                "segment {index} lies about its size; load the file again"
            ),
            Self::Overlap(one, other) => {
                write!(
                    f,
                    "segments at {one} and {other} overlap; link the kernel again"
                )
            }
            Self::NoEntry => write!(
                f,
                "no PVH entry (ELF note 18, PHYS32_ENTRY); build the kernel with PVH support (Linux: CONFIG_PVH)"
            ),
            Self::Entry(at) => write!(
                f,
                "the PVH entry {at:#x} lies in none of its segments below 4 GiB; link the kernel again"
            ),
        }
    }
}

/// No kernel has more.
const MOST_SEGMENTS: usize = 64;
/// Notes that are kept; a kernel has about twenty.
const MOST_NOTES: usize = 64;
/// Whatever the headers say, Xen's notes are aligned to four bytes.
const NOTE_ALIGN: usize = 4;

/// Whether a file starts like ELF.
#[must_use]
pub fn is_elf(file: &[u8]) -> bool {
    file.starts_with(b"\x7fELF")
}

impl<'a> Elf<'a> {
    /// Looks at a file.
    pub fn parse(file: &'a [u8]) -> Result<Self, ElfError> {
        if !is_elf(file) {
            return Err(ElfError::NotElf);
        }
        let image = ElfBytes::<LittleEndian>::minimal_parse(file)
            .map_err(|error| from_library(&error, file))?;
        let header = &image.ehdr;
        if header.e_machine != EM_386 && header.e_machine != EM_X86_64 {
            return Err(ElfError::Machine(header.e_machine));
        }
        if header.e_type != ET_EXEC && header.e_type != ET_DYN {
            return Err(ElfError::Kind(header.e_type));
        }
        let segments = segments(&image, file)?;
        let mut notes = Vec::new();
        for bytes in note_areas(&image, file) {
            collect_notes(bytes, header.class, &mut notes);
        }
        Ok(Self {
            width: match header.class {
                Class::ELF32 => Width::Bits32,
                Class::ELF64 => Width::Bits64,
            },
            machine: header.e_machine,
            entry: header.e_entry,
            segments,
            notes,
        })
    }

    /// The content of a note.
    #[must_use]
    pub fn note(&self, wanted: ElfNote) -> Option<&'a [u8]> {
        let found = self.notes.iter().find(|(id, _)| *id == wanted as u32)?;
        Some(found.1)
    }

    /// The content of a note that is a number, of four or eight bytes.
    #[must_use]
    pub fn note_number(&self, wanted: ElfNote) -> Option<u64> {
        match *self.note(wanted)? {
            [a, b, c, d] => Some(u32::from_le_bytes([a, b, c, d]).into()),
            [a, b, c, d, e, f, g, h] => Some(u64::from_le_bytes([a, b, c, d, e, f, g, h])),
            _ => None,
        }
    }

    /// Where a PVH start begins: physical, in a segment, below 4 GiB.
    pub fn pvh_entry(&self) -> Result<u32, ElfError> {
        let at = self
            .note_number(ElfNote::Phys32Entry)
            .ok_or(ElfError::NoEntry)?;
        let inside = |s: &Segment<'_>| (s.memory.start()..s.memory.end()).contains(&at);
        match u32::try_from(at) {
            Ok(entry) if self.segments.iter().any(inside) => Ok(entry),
            _ => Err(ElfError::Entry(at)),
        }
    }

    /// From the first byte of the lowest segment to the last of the highest.
    #[must_use]
    pub fn extent(&self) -> PhysRange {
        let start = self.segments.iter().map(|s| s.memory.start()).min();
        let end = self.segments.iter().map(|s| s.memory.end()).max();
        PhysRange::between(start.unwrap_or(0), end.unwrap_or(0))
    }
}

fn from_library(error: &ParseError, file: &[u8]) -> ElfError {
    match error {
        ParseError::UnsupportedElfEndianness(_) | ParseError::UnsupportedVersion(_) => {
            ElfError::Foreign
        }
        ParseError::SliceReadError((_, end)) => ElfError::Truncated {
            needed: Some(*end as u64).filter(|end| *end > file.len() as u64),
            present: file.len() as u64,
        },
        _ => ElfError::Damaged,
    }
}

fn segments<'a>(
    image: &ElfBytes<'a, LittleEndian>,
    file: &'a [u8],
) -> Result<Vec<Segment<'a>>, ElfError> {
    let table = image.segments().ok_or(ElfError::Segments(0))?;
    let wanted = || {
        table
            .iter()
            .filter(|s| s.p_type == PT_LOAD && s.p_memsz != 0)
    };
    let count = wanted().count();
    if count == 0 || count > MOST_SEGMENTS {
        return Err(ElfError::Segments(count));
    }
    let mut segments: Vec<Segment<'a>> = Vec::with_capacity(count);
    for (index, header) in wanted().enumerate() {
        let lies = ElfError::Size(index);
        let memory = PhysRange::new(header.p_paddr, header.p_memsz).ok_or(lies)?;
        if header.p_filesz > header.p_memsz {
            return Err(lies);
        }
        let stored = PhysRange::new(header.p_offset, header.p_filesz).ok_or(lies)?;
        let bytes = slice(file, stored).ok_or(ElfError::Truncated {
            needed: Some(stored.end()),
            present: file.len() as u64,
        })?;
        if let Some(other) = segments.iter().find(|s| s.memory.overlaps(&memory)) {
            return Err(ElfError::Overlap(other.memory, memory));
        }
        segments.push(Segment {
            memory,
            virt: header.p_vaddr,
            bytes,
        });
    }
    Ok(segments)
}

fn slice(file: &[u8], range: PhysRange) -> Option<&[u8]> {
    file.get(usize::try_from(range.start()).ok()?..usize::try_from(range.end()).ok()?)
}

/// What segments and, for kernels without a note segment, sections say holds notes. An area outside the file holds none.
fn note_areas<'a>(image: &ElfBytes<'a, LittleEndian>, file: &'a [u8]) -> Vec<&'a [u8]> {
    let from_segments = image.segments().into_iter().flat_map(|table| {
        let notes = table.iter().filter(|s| s.p_type == PT_NOTE);
        notes.filter_map(|s| PhysRange::new(s.p_offset, s.p_filesz))
    });
    let from_sections = image.section_headers().into_iter().flat_map(|table| {
        let notes = table.iter().filter(|s| s.sh_type == SHT_NOTE);
        notes.filter_map(|s| PhysRange::new(s.sh_offset, s.sh_size))
    });
    from_segments
        .chain(from_sections)
        .take(MOST_NOTES)
        .filter_map(|range| slice(file, range))
        .collect()
}

/// Adds Xen's notes; the first of a number counts.
fn collect_notes<'a>(bytes: &'a [u8], class: Class, notes: &mut Vec<(u32, &'a [u8])>) {
    for note in NoteIterator::new(LittleEndian, class, NOTE_ALIGN, bytes) {
        let Note::Unknown(note) = note else { continue };
        let Ok(id) = u32::try_from(note.n_type) else {
            continue;
        };
        let name = note.name.strip_suffix(&[0]).unwrap_or(note.name);
        let known = notes.iter().any(|(other, _)| *other == id);
        if name == elfnote::NAME && !known && notes.len() < MOST_NOTES {
            notes.push((id, note.desc));
        }
    }
}

/// Fuzzing: any bytes as an ELF kernel.
pub fn fuzz_elf(bytes: &[u8]) {
    if let Ok(kernel) = Elf::parse(bytes) {
        let _ = kernel.pvh_entry();
        let loaded = kernel.segments.iter().map(|s| s.memory.size());
        assert!(loaded.fold(0, u64::saturating_add) <= kernel.extent().size());
        pv::fuzz_pv(&kernel);
    }
}

#[cfg(test)]
pub(in crate::boot) mod tests;
