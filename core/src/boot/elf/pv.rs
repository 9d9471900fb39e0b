//! A PV kernel: what its notes say of how it is mapped and started, checked against its segments.
//!
//! Notes: `elfnote.h`. The kernel's virtual addresses follow from the physical ones in its headers: `VIRT_BASE` is the
//! address of what `PADDR_OFFSET` is the physical address of. A description exists only if every address in it is one that
//! the guest may have, page aligned where it must be, and inside the kernel where it must be.

use alloc::vec::Vec;

use xenolith_abi::{
    elfnote::ElfNote,
    version::Features,
    x86_64::{HYPERVISOR_VIRT_END, MACH2PHYS_VIRT_START},
};
use xenolith_hal::PAGE_MASK;

use super::{Elf, Segment, Width, pv_error::PvError};
use crate::boot::range::PhysRange;

/// How an entry of a last-level table that is not present is known to hold a machine frame all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct L1MfnValid {
    /// The bits to look at.
    pub mask: u64,
    /// What they must be.
    pub value: u64,
}

/// A kernel that can be started as a PV guest.
#[derive(Clone, Debug)]
pub struct PvKernel<'a> {
    /// Its segments, at their virtual addresses: [`Segment::virt`] is what the notes make of the physical address.
    pub segments: Vec<Segment<'a>>,
    /// From the first byte of the lowest segment to the last of the highest, virtually.
    pub start: u64,
    /// See [`PvKernel::start`]; never below it.
    pub end: u64,
    /// Where it starts.
    pub entry: u64,
    /// The virtual address of its first frame.
    pub virt_base: u64,
    /// The page for hypercalls, if it wants one.
    pub hypercall_page: Option<u64>,
    /// Where the list of machine frames is to be, if not in the bootstrap area.
    pub init_p2m: Option<u64>,
    /// Whether a ramdisk may be given by frame, without being mapped.
    pub mod_start_pfn: bool,
    /// Whether a suspend may be called off.
    pub suspend_cancel: bool,
    /// Features that it knows; `None` if it does not say so in bits.
    pub supported: Option<Features>,
    /// Features that it cannot do without.
    pub required: Features,
    /// How entries that are not present hold frames.
    pub l1_mfn_valid: Vec<L1MfnValid>,
    /// What it calls itself, as far as it is printable.
    pub guest_os: &'a str,
}

/// What a PV guest is not offered, whatever it requires.
const REFUSED: Features = Features::WRITABLE_DESCRIPTOR_TABLES
    .union(Features::AUTO_TRANSLATED_PHYSMAP)
    .union(Features::SUPERVISOR_MODE_KERNEL);

/// The first of the addresses behind the lower canonical half.
const LOWER_END: u64 = 1 << 47;
/// The first address of the upper half.
const UPPER_START: u64 = !(LOWER_END - 1);

/// Whether a guest may have memory at all of these addresses: canonical, and not the hypervisor's. The last byte of the
/// address space is nobody's, so that an end can be told.
#[must_use]
pub fn is_guests(start: u64, end: u64) -> bool {
    start <= end
        && (end <= LOWER_END
            || (start >= UPPER_START
                && (end <= MACH2PHYS_VIRT_START || start >= HYPERVISOR_VIRT_END)))
}

impl Elf<'_> {
    /// Whether it says that it can start as a PV guest. It may be able to start as PVH too.
    #[must_use]
    pub fn is_pv(&self) -> bool {
        self.note(ElfNote::Entry).is_some()
    }
}

impl<'a> PvKernel<'a> {
    /// What the notes of a kernel say.
    pub fn new(elf: &Elf<'a>) -> Result<Self, PvError> {
        if !elf.is_pv() {
            return Err(PvError::NoEntry);
        }
        if elf.width != Width::Bits64 || elf.machine != elf::abi::EM_X86_64 {
            return Err(PvError::NotWide);
        }
        check_texts(elf)?;
        let number = |note| number(elf, note);
        let virt_base = number(ElfNote::VirtBase)?.unwrap_or(0);
        let offset = virt_base.wrapping_sub(number(ElfNote::PaddrOffset)?.unwrap_or(0));
        if virt_base & PAGE_MASK != 0 {
            return Err(PvError::Unaligned("VIRT_BASE", virt_base));
        }
        let segments = elf
            .segments
            .iter()
            .map(|segment| placed(segment, virt_base, offset))
            .collect::<Result<Vec<_>, _>>()?;
        let start = segments.iter().map(|s| s.virt).min().unwrap_or(virt_base);
        let end = segments.iter().map(|s| s.virt + s.memory.size()).max();
        let end = end.unwrap_or(start);
        if !is_guests(virt_base, end) {
            return Err(PvError::Place(virt_base, end));
        }
        let entry = number(ElfNote::Entry)?.ok_or(PvError::NoEntry)?;
        if !(start..end).contains(&entry) {
            return Err(PvError::Outside("ENTRY", entry));
        }
        let hypercall_page = number(ElfNote::HypercallPage)?;
        if let Some(page) = hypercall_page {
            check_hypercall_page(page, &segments)?;
        }
        let init_p2m = number(ElfNote::InitP2m)?;
        if let Some(at) = init_p2m {
            if at & PAGE_MASK != 0 {
                return Err(PvError::Unaligned("INIT_P2M", at));
            }
            if !is_guests(at, at | PAGE_MASK) || (virt_base..end).contains(&at) {
                return Err(PvError::List(at));
            }
        }
        if let Some(lowest) = number(ElfNote::HvStartLow)?
            && lowest > MACH2PHYS_VIRT_START
        {
            return Err(PvError::Hole(lowest));
        }
        let (text, required) = features(elf)?;
        let bits = number(ElfNote::SupportedFeatures)?.map(|bits| Features(bits as u32));
        Ok(Self {
            segments,
            start,
            end,
            entry,
            virt_base,
            hypercall_page,
            init_p2m,
            mod_start_pfn: number(ElfNote::ModStartPfn)?.is_some_and(|n| n != 0),
            suspend_cancel: number(ElfNote::SuspendCancel)?.is_some_and(|n| n != 0),
            supported: bits.map(|bits| bits | text),
            required,
            l1_mfn_valid: l1_mfn_valid(elf)?,
            guest_os: self::text(elf, ElfNote::GuestOs),
        })
    }

    /// Whether it says that it cannot be the initial domain.
    #[must_use]
    pub fn refuses_dom0(&self) -> bool {
        self.supported
            .is_some_and(|features| !features.contains(Features::DOM0))
    }
}

/// A note that is a number: `None` where there is none.
fn number(elf: &Elf<'_>, note: ElfNote) -> Result<Option<u64>, PvError> {
    match (elf.note(note), elf.note_number(note)) {
        (None, _) => Ok(None),
        (Some(_), Some(number)) => Ok(Some(number)),
        (Some(content), None) => Err(PvError::NoteSize(note as u32, content.len())),
    }
}

/// A note that is a text, up to its zero; empty where there is none or it is not one.
fn text<'a>(elf: &Elf<'a>, note: ElfNote) -> &'a str {
    let bytes = elf.note(note).unwrap_or_default();
    let end = bytes.iter().position(|byte| *byte == 0);
    let bytes = bytes.get(..end.unwrap_or(bytes.len())).unwrap_or_default();
    match core::str::from_utf8(bytes) {
        Ok(text) if text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) => text,
        _ => "",
    }
}

/// For which hypervisor and loader it was made.
fn check_texts(elf: &Elf<'_>) -> Result<(), PvError> {
    let version = elf.note(ElfNote::XenVersion).is_some();
    if version && text(elf, ElfNote::XenVersion) != "xen-3.0" {
        return Err(PvError::Version);
    }
    let loader = elf.note(ElfNote::Loader).is_some();
    let known = text(elf, ElfNote::Loader) == "generic" || text(elf, ElfNote::GuestOs) == "linux";
    if loader && !known {
        return Err(PvError::Loader);
    }
    Ok(())
}

/// A segment at its virtual address.
fn placed<'a>(segment: &Segment<'a>, virt_base: u64, offset: u64) -> Result<Segment<'a>, PvError> {
    let virt = segment.memory.start().wrapping_add(offset);
    let Some(end) = virt.checked_add(segment.memory.size()) else {
        return Err(PvError::Place(virt, u64::MAX));
    };
    if virt < virt_base || !is_guests(virt, end) {
        return Err(PvError::Place(virt, end));
    }
    Ok(Segment { virt, ..*segment })
}

/// The whole page must be the kernel's, so that nothing else is overwritten.
fn check_hypercall_page(page: u64, segments: &[Segment<'_>]) -> Result<(), PvError> {
    if page & PAGE_MASK != 0 {
        return Err(PvError::Unaligned("HYPERCALL_PAGE", page));
    }
    let wanted = PhysRange::new(page, PAGE_MASK + 1);
    let inside = |s: &Segment<'_>| {
        let all = PhysRange::new(s.virt, s.memory.size());
        all.zip(wanted)
            .is_some_and(|(all, page)| all.contains(&page))
    };
    match segments.iter().any(inside) {
        true => Ok(()),
        false => Err(PvError::Outside("HYPERCALL_PAGE", page)),
    }
}

/// Features in words, those with an exclamation mark required.
fn features(elf: &Elf<'_>) -> Result<(Features, Features), PvError> {
    let (mut known, mut required) = (Features::empty(), Features::empty());
    for word in text(elf, ElfNote::Features).split('|') {
        let (name, needed) = match word.strip_prefix('!') {
            Some(name) => (name, true),
            None => (word, false),
        };
        let mut all = Features::all().iter_names();
        let found = all.find(|(other, _)| other.eq_ignore_ascii_case(name));
        match (found, needed) {
            (Some((_, feature)), needed) => {
                known |= feature;
                if needed {
                    required |= feature;
                }
            }
            (None, true) => return Err(PvError::Feature),
            (None, false) => {}
        }
    }
    match required.intersects(REFUSED) {
        true => Err(PvError::Feature),
        false => Ok((known, required)),
    }
}

/// Pairs of numbers.
fn l1_mfn_valid(elf: &Elf<'_>) -> Result<Vec<L1MfnValid>, PvError> {
    const PAIR: usize = 16;
    let content = elf.note(ElfNote::L1MfnValid).unwrap_or_default();
    if !content.len().is_multiple_of(PAIR) {
        let note = ElfNote::L1MfnValid as u32;
        return Err(PvError::NoteSize(note, content.len()));
    }
    let (words, _) = content.as_chunks::<8>();
    let (pairs, _) = words.as_chunks::<2>();
    let pair = |[mask, value]: &[[u8; 8]; 2]| L1MfnValid {
        mask: u64::from_le_bytes(*mask),
        value: u64::from_le_bytes(*value),
    };
    Ok(pairs.iter().map(pair).collect())
}

/// Fuzzing: the description of any kernel keeps what the module says of it.
pub(super) fn fuzz_pv(elf: &Elf<'_>) {
    let Ok(kernel) = PvKernel::new(elf) else {
        return;
    };
    assert!(is_guests(kernel.virt_base, kernel.end) && kernel.virt_base <= kernel.start);
    assert!((kernel.start..kernel.end).contains(&kernel.entry));
    for segment in &kernel.segments {
        let end = segment.virt + segment.memory.size();
        assert!(kernel.start <= segment.virt && end <= kernel.end);
        assert!(segment.bytes.len() as u64 <= segment.memory.size());
    }
    let page = kernel.hypercall_page.unwrap_or(kernel.start);
    assert!((kernel.start..kernel.end).contains(&page));
}

#[cfg(test)]
mod tests;
