//! What a PVH kernel finds at its entry (`arch-x86/hvm/start_info.h`, version 1): the start-of-day struct with the memory
//! map, the ramdisk as its module and the command line behind it, as one blob. Linux reads it with the first GiB mapped.

use alloc::vec::Vec;

use xenolith_abi::start_info::{HvmStartInfo, MAGIC, MemmapEntry, ModlistEntry, StartFlags};
use xenolith_core::boot::PhysRange;
use zerocopy::IntoBytes;

use super::memory_map::GuestEntry;

/// What goes in.
#[derive(Clone, Copy, Debug)]
pub struct Contents<'c> {
    /// What kind of domain it is.
    pub flags: StartFlags,
    /// The kernel's command line.
    pub command_line: &'c [u8],
    /// Where the ramdisk is, with its own command line.
    pub ramdisk: Option<(PhysRange, &'c [u8])>,
    /// Guest-physical address of the ACPI root pointer; 0 for none.
    pub rsdp: u64,
    /// The memory map.
    pub map: &'c [GuestEntry],
}

const HEADER: u64 = size_of::<HvmStartInfo>() as u64;
const MODULE: u64 = size_of::<ModlistEntry>() as u64;
const ENTRY: u64 = size_of::<MemmapEntry>() as u64;

/// Bytes of a blob with these texts and so many map entries, a ramdisk included.
#[must_use]
pub fn size(command_line: &[u8], ramdisk_line: &[u8], map_entries: usize) -> u64 {
    let texts = (command_line.len() as u64).saturating_add(ramdisk_line.len() as u64);
    ENTRY
        .saturating_mul(map_entries as u64)
        .saturating_add(HEADER + MODULE + 2)
        .saturating_add(texts)
}

/// The blob, to be placed at guest-physical `at`; the struct comes first. No longer than [`size`] says.
#[must_use]
pub fn build(contents: &Contents<'_>, at: u64) -> Vec<u8> {
    let modules = at.wrapping_add(HEADER);
    let map = modules.wrapping_add(MODULE);
    let line = map.wrapping_add(ENTRY.wrapping_mul(contents.map.len() as u64));
    let ramdisk_line = line.wrapping_add(contents.command_line.len() as u64 + 1);

    let info = HvmStartInfo {
        magic: MAGIC,
        version: 1,
        flags: contents.flags,
        nr_modules: contents.ramdisk.is_some().into(),
        modlist_paddr: if contents.ramdisk.is_some() {
            modules
        } else {
            0
        },
        cmdline_paddr: line,
        rsdp_paddr: contents.rsdp,
        memmap_paddr: map,
        memmap_entries: contents.map.len() as u32,
        reserved: 0,
    };
    let module = contents
        .ramdisk
        .map_or(ModlistEntry::default(), |(place, text)| ModlistEntry {
            paddr: place.start(),
            size: place.size(),
            cmdline_paddr: if text.is_empty() { 0 } else { ramdisk_line },
            reserved: 0,
        });
    let mut out = Vec::new();
    out.extend(info.as_bytes());
    out.extend(module.as_bytes());
    for entry in contents.map {
        let entry = MemmapEntry {
            addr: entry.range.start(),
            size: entry.range.size(),
            kind: entry.kind.number(),
            reserved: 0,
        };
        out.extend(entry.as_bytes());
    }
    let ramdisk_text = contents.ramdisk.map_or(&[][..], |(_, text)| text);
    for text in [contents.command_line, ramdisk_text] {
        out.extend(text);
        out.push(0);
    }
    out
}
