//! What the loader left: command line and memory map of the PVH start info, and the CPUs that ACPI's MADT lists.
//! `arch-x86/hvm/start_info.h`; ACPI specification, 5.2.

use core::sync::atomic::{AtomicU32, Ordering};

use crate::xen::{call, memory, nr};
use xenolith_abi::start_info::{HvmStartInfo, MAGIC, MemmapEntry};

const GIB: u64 = 1 << 30;
/// The runtime's own tables map up to here one to one.
const MAPPED: u64 = 4 * GIB;

#[unsafe(no_mangle)]
static GUEST_START_INFO: AtomicU32 = AtomicU32::new(0);

/// A value at a physical address that may have any alignment; `None` where the runtime maps nothing.
fn at<T: Copy>(address: u64) -> Option<T> {
    let end = address.checked_add(size_of::<T>() as u64)?;
    // SAFETY: mapped, plain data, and nothing of ours that is not itself only read here.
    (address != 0 && end <= MAPPED).then(|| unsafe { (address as *const T).read_unaligned() })
}

/// The start info.
pub fn start_info() -> HvmStartInfo {
    match at::<HvmStartInfo>(u64::from(GUEST_START_INFO.load(Ordering::Relaxed))) {
        Some(info) if info.magic == MAGIC => info,
        _ => panic!("no start info"),
    }
}

/// The command line.
pub fn command_line() -> &'static str {
    let start = start_info().cmdline_paddr;
    let mut length = 0;
    while at::<u8>(start + length).is_some_and(|byte| byte != 0) && length < 4096 {
        length += 1;
    }
    if length == 0 {
        return "";
    }
    // SAFETY: `length` mapped bytes that nothing writes.
    let bytes = unsafe { core::slice::from_raw_parts(start as *const u8, length as usize) };
    core::str::from_utf8(bytes).unwrap_or("")
}

/// Entries of a memory map that a call is asked for.
const MOST_ENTRIES: usize = 64;

/// An entry as `XENMEM_memory_map` gives it.
#[repr(C, packed)]
#[derive(Clone, Copy)]
pub struct Range {
    /// First byte.
    pub addr: u64,
    /// Length in bytes.
    pub size: u64,
    /// What it is.
    pub kind: u32,
}

/// Asks by `XENMEM_memory_map`: how many entries there are, and the entries.
pub fn asked_memory_map() -> (Result<usize, i64>, [Range; MOST_ENTRIES]) {
    #[repr(C)]
    struct Argument(u32, u64);
    let mut ranges = [Range {
        addr: 0,
        size: 0,
        kind: 0,
    }; MOST_ENTRIES];
    let mut argument = Argument(MOST_ENTRIES as u32, ranges.as_mut_ptr() as u64);
    let count = match call(nr::MEMORY_OP, memory::op::MEMORY_MAP, &mut argument) {
        0 => Ok(argument.0 as usize),
        errno => Err(errno),
    };
    (count, ranges)
}

/// How many entries of a memory map the start info has.
pub fn start_info_entries() -> u32 {
    let info = start_info();
    if info.version >= 1 {
        info.memmap_entries
    } else {
        0
    }
}

/// The memory map: that of the start info, or else what the hypervisor says when asked (Xen's dom0).
pub fn memory_map() -> impl Iterator<Item = MemmapEntry> {
    let info = start_info();
    let told = start_info_entries();
    let (count, asked) = if told == 0 {
        asked_memory_map()
    } else {
        (
            Ok(told as usize),
            [Range {
                addr: 0,
                size: 0,
                kind: 0,
            }; MOST_ENTRIES],
        )
    };
    (0..count.unwrap_or(0)).map_while(move |index| {
        if told != 0 {
            return at(info.memmap_paddr + (index * size_of::<MemmapEntry>()) as u64);
        }
        let range = asked.get(index)?;
        Some(MemmapEntry {
            addr: range.addr,
            size: range.size,
            kind: range.kind,
            ..MemmapEntry::default()
        })
    })
}

/// The first whole GiB above 4 GiB in which the memory map has nothing.
pub(super) fn free_gib() -> u64 {
    let is_free = |start: &u64| {
        memory_map().all(|entry| {
            entry.addr >= start + GIB || entry.addr.saturating_add(entry.size) <= *start
        })
    };
    (4..500)
        .map(|gib| gib * GIB)
        .find(is_free)
        .unwrap_or(MAPPED)
}

/// Address of the ACPI table with this signature.
pub fn acpi_table(signature: &[u8; 4]) -> Option<u64> {
    let root = start_info().rsdp_paddr;
    if at::<[u8; 8]>(root)? != *b"RSD PTR " {
        return None;
    }
    let revision: u8 = at(root + 15)?;
    let (list, width) = match revision {
        0 => (u64::from(at::<u32>(root + 16)?), 4),
        _ => (at::<u64>(root + 24)?, 8),
    };
    let length = u64::from(at::<u32>(list + 4)?);
    (36..length).step_by(width).find_map(|offset| {
        let table = match width {
            4 => u64::from(at::<u32>(list + offset)?),
            _ => at::<u64>(list + offset)?,
        };
        (at::<[u8; 4]>(table)? == *signature).then_some(table)
    })
}

/// The APIC ids of the CPUs that the MADT says can be used, in its order.
pub(super) fn apic_ids() -> impl Iterator<Item = u32> {
    const ENABLED: u32 = 1;
    let table = acpi_table(b"APIC").unwrap_or(0);
    let end = table + at::<u32>(table + 4).map_or(0, u64::from);
    let mut entry = table + 44;
    core::iter::from_fn(move || {
        while entry < end {
            let here = entry;
            let [kind, length]: [u8; 2] = at(here)?;
            entry += u64::from(length.max(2));
            let (id, flags) = match kind {
                0 => (u32::from(at::<u8>(here + 3)?), at::<u32>(here + 4)?),
                9 => (at::<u32>(here + 4)?, at::<u32>(here + 8)?),
                _ => continue,
            };
            if flags & ENABLED != 0 {
                return Some(id);
            }
        }
        None
    })
}
