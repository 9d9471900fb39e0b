//! What the boot loader says: memory map, command line, modules, where ACPI is. PVH, Multiboot 1, Multiboot 2.
//!
//! Follows `arch-x86/hvm/start_info.h`, the Multiboot Specification 0.6.96 and the Multiboot2 Specification 2.0. Nothing
//! that a loader leaves in memory can make this fail otherwise than by a value; physical memory is read through a function.

use alloc::vec::Vec;

use xenolith_abi::start_info::{self, HvmStartInfo, MemmapEntry, ModlistEntry};
use xenolith_core::boot::PhysRange;
use zerocopy::FromBytes;

/// Gives the bytes at a physical address.
pub type Look<'l, 'm> = &'l dyn Fn(u64, usize) -> Option<&'m [u8]>;

/// How the image was started: what the start-up code found in EAX, or put there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Through the ELF note for PVH.
    Pvh,
    /// By a Multiboot 1 loader.
    Multiboot1,
    /// By a Multiboot 2 loader.
    Multiboot2,
}

impl Protocol {
    /// From the loader's magic number.
    #[must_use]
    pub fn from_magic(magic: u32) -> Option<Self> {
        match magic {
            start_info::MAGIC => Some(Self::Pvh),
            0x2bad_b002 => Some(Self::Multiboot1),
            0x36d7_6289 => Some(Self::Multiboot2),
            _ => None,
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Pvh => "PVH",
            Self::Multiboot1 => "Multiboot 1",
            Self::Multiboot2 => "Multiboot 2",
        }
    }
}

/// One range of the memory map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapEntry {
    /// Where.
    pub range: PhysRange,
    /// The number that ACPI has for its kind; 1 is RAM.
    pub kind: u32,
}

/// What the loader said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BootInfo<'m> {
    /// The memory map as given.
    pub map: Vec<MapEntry>,
    /// The hypervisor's command line.
    pub command_line: &'m str,
    /// Modules that were loaded, in their order.
    pub modules: Vec<Module<'m>>,
    /// What else must not be overwritten yet.
    pub loaded: Vec<PhysRange>,
    /// The loader's name for itself.
    pub loader: &'m str,
    /// ACPI's root pointer, where the loader tells it.
    pub rsdp: Option<u64>,
}

/// A file that the boot loader put into memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Module<'m> {
    /// Where.
    pub range: PhysRange,
    /// What the loader was told to say to it.
    pub command_line: &'m str,
}

/// More entries than any machine has: a count above it is nonsense.
const MOST: u32 = 1024;
const MOST_TEXT: usize = 4096;

/// Reads what the loader left; the error says what is missing.
pub fn read<'m>(
    protocol: Protocol,
    at: u64,
    look: Look<'_, 'm>,
) -> Result<BootInfo<'m>, &'static str> {
    let info = match protocol {
        Protocol::Pvh => pvh(at, look),
        Protocol::Multiboot1 => multiboot1(at, look),
        Protocol::Multiboot2 => multiboot2(at, look),
    }
    .ok_or("the boot loader's information cannot be read: its addresses lead nowhere")?;
    let info = without_names(protocol, info);
    if info.map.iter().any(|entry| entry.kind == 1) {
        Ok(info)
    } else {
        Err("the boot loader gives no memory map with RAM in it: start by a loader that does")
    }
}

/// Multiboot loaders begin each command line with the file's name; GRUB 2 and PVH loaders do not.
fn without_names(protocol: Protocol, mut info: BootInfo<'_>) -> BootInfo<'_> {
    if protocol == Protocol::Pvh || info.loader.starts_with("GRUB 2") {
        return info;
    }
    fn rest(line: &str) -> &str {
        line.trim_start()
            .split_once(' ')
            .map_or("", |(_, rest)| rest)
    }
    info.command_line = rest(info.command_line);
    for module in &mut info.modules {
        module.command_line = rest(module.command_line);
    }
    info
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(
        bytes.get(at..at.checked_add(4)?)?.try_into().ok()?,
    ))
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(
        bytes.get(at..at.checked_add(8)?)?.try_into().ok()?,
    ))
}

/// A zero-ended text; empty when there is none.
fn text<'m>(at: u64, look: Look<'_, 'm>) -> &'m str {
    if at == 0 {
        return "";
    }
    until_zero(look(at, MOST_TEXT).unwrap_or_default())
}

fn until_zero(bytes: &[u8]) -> &str {
    let bytes = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    core::str::from_utf8(bytes).unwrap_or_default()
}

fn pvh<'m>(at: u64, look: Look<'_, 'm>) -> Option<BootInfo<'m>> {
    let (info, _) = HvmStartInfo::read_from_prefix(look(at, size_of::<HvmStartInfo>())?).ok()?;
    let mut out = BootInfo {
        command_line: text(info.cmdline_paddr, look),
        rsdp: Some(info.rsdp_paddr).filter(|at| *at != 0),
        ..BootInfo::default()
    };
    out.loaded
        .extend(PhysRange::new(at, size_of::<HvmStartInfo>() as u64));
    if info.magic != start_info::MAGIC || info.memmap_entries > MOST || info.nr_modules > MOST {
        return None;
    }
    if info.version >= 1 && info.memmap_entries != 0 {
        let size = info.memmap_entries as usize * size_of::<MemmapEntry>();
        let entries = <[MemmapEntry]>::ref_from_bytes(look(info.memmap_paddr, size)?).ok()?;
        out.map.extend(entries.iter().filter_map(|entry| {
            let range = PhysRange::new(entry.addr, entry.size)?;
            Some(MapEntry {
                range,
                kind: entry.kind,
            })
        }));
    }
    if info.nr_modules != 0 {
        let size = info.nr_modules as usize * size_of::<ModlistEntry>();
        let modules = <[ModlistEntry]>::ref_from_bytes(look(info.modlist_paddr, size)?).ok()?;
        out.modules.extend(modules.iter().filter_map(|m| {
            Some(Module {
                range: PhysRange::new(m.paddr, m.size)?,
                command_line: text(m.cmdline_paddr, look),
            })
        }));
    }
    Some(out)
}

fn multiboot1<'m>(at: u64, look: Look<'_, 'm>) -> Option<BootInfo<'m>> {
    const SIZE: usize = 116;
    const COMMAND_LINE: u32 = 1 << 2;
    const MODULES: u32 = 1 << 3;
    const MEMORY_MAP: u32 = 1 << 6;
    const LOADER: u32 = 1 << 9;
    let info = look(at, SIZE)?;
    let flags = word(info, 0)?;
    let mut out = BootInfo::default();
    out.loaded.extend(PhysRange::new(at, SIZE as u64));
    if flags & COMMAND_LINE != 0 {
        out.command_line = text(word(info, 16)?.into(), look);
    }
    if flags & LOADER != 0 {
        out.loader = text(word(info, 64)?.into(), look);
    }
    if flags & MODULES != 0 && word(info, 20)? != 0 {
        let (count, list) = (word(info, 20)?.min(MOST), u64::from(word(info, 24)?));
        let size = count as usize * 16;
        let modules = look(list, size)?;
        out.loaded.extend(PhysRange::new(list, size as u64));
        for module in modules.chunks_exact(16) {
            let (start, end) = (word(module, 0)?, word(module, 4)?);
            out.modules.push(Module {
                range: PhysRange::between(start.into(), end.into()),
                command_line: text(word(module, 8)?.into(), look),
            });
        }
    }
    if flags & MEMORY_MAP != 0 {
        let map = look(word(info, 48)?.into(), word(info, 44)? as usize)?;
        let mut at = 0usize;
        // Each entry tells its own size, which does not count the field that tells it.
        while let (Some(size), Some(base), Some(length), Some(kind)) = (
            word(map, at),
            long(map, at + 4),
            long(map, at + 12),
            word(map, at + 20),
        ) {
            if let Some(range) = PhysRange::new(base, length) {
                out.map.push(MapEntry { range, kind });
            }
            at = at.checked_add(size as usize)?.checked_add(4)?;
        }
    }
    Some(out)
}

fn multiboot2<'m>(at: u64, look: Look<'_, 'm>) -> Option<BootInfo<'m>> {
    const COMMAND_LINE: u32 = 1;
    const LOADER: u32 = 2;
    const MODULE: u32 = 3;
    const MEMORY_MAP: u32 = 6;
    const OLD_ACPI: u32 = 14;
    const NEW_ACPI: u32 = 15;
    let total = word(look(at, 8)?, 0)? as usize;
    let info = look(at, total)?;
    let mut out = BootInfo::default();
    out.loaded.extend(PhysRange::new(at, total as u64));
    let mut offset = 8usize;
    while let (Some(kind), Some(size)) = (word(info, offset), word(info, offset.checked_add(4)?)) {
        let Some(tag) = info.get(offset..offset.checked_add(size as usize)?) else {
            break;
        };
        match kind {
            0 => break,
            COMMAND_LINE => out.command_line = until_zero(tag.get(8..)?),
            LOADER => out.loader = until_zero(tag.get(8..)?),
            MODULE => out.modules.push(Module {
                range: PhysRange::between(word(tag, 8)?.into(), word(tag, 12)?.into()),
                command_line: until_zero(tag.get(16..)?),
            }),
            MEMORY_MAP => {
                let step = word(tag, 8)?.max(24) as usize;
                for entry in tag.get(16..)?.chunks_exact(step) {
                    if let Some(range) = PhysRange::new(long(entry, 0)?, long(entry, 8)?) {
                        let kind = word(entry, 16)?;
                        out.map.push(MapEntry { range, kind });
                    }
                }
            }
            // A copy of the root pointer; the newer one comes after the older.
            OLD_ACPI | NEW_ACPI => out.rsdp = at.checked_add(offset as u64 + 8),
            _ => {}
        }
        // A tag is no shorter than its own header, and the next one is aligned to eight bytes.
        offset = offset.checked_add((size as usize).max(8).checked_next_multiple_of(8)?)?;
    }
    Some(out)
}

#[cfg(test)]
mod tests;
