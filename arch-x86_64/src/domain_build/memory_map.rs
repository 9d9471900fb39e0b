//! dom0's memory: the machine's map with the hypervisor's own ranges taken out, and where its parts go.
//!
//! RAM is 1:1, so that devices without an IOMMU reach what dom0 tells them. What the loader left is used in place where it
//! may stay; what lies where the kernel is linked to is copied away first. Every place to which something is copied is
//! apart from every place from which something still comes, so the order of the copies does not matter.

use alloc::vec::Vec;
use core::fmt;

use xenolith_abi::start_info::MemmapType;
use xenolith_core::boot::{
    PhysRange, RangeSet, cmdline::Dom0Memory, placement::dom0_memory, range::align_down,
};

use crate::boot::info::MapEntry;

pub(super) const PAGE: u64 = 4096;
/// Linux reads its start-of-day data with so much mapped.
pub(super) const EARLY: PhysRange = PhysRange::between(1 << 20, 1 << 30);
/// Where a ramdisk may be: kernels read its address in 32 bits.
pub(super) const BELOW_4G: PhysRange = PhysRange::between(1 << 20, 1 << 32);
/// The screen's memory and ROMs of the PC, which no map lists.
const LEGACY: PhysRange = PhysRange::between(0xa_0000, 0x10_0000);

/// A range of dom0's memory map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestEntry {
    /// Where.
    pub range: PhysRange,
    /// What it is.
    pub kind: MemmapType,
}

/// What is to be placed.
#[derive(Clone, Copy, Debug)]
pub struct Request<'r> {
    /// The machine's map, as the loader told it.
    pub map: &'r [MapEntry],
    /// The hypervisor's own: image, records, heap, stacks. Never dom0's.
    pub own: &'r RangeSet,
    /// Registers that dom0 must not reach: local APICs, I/O APICs, HPET, IOMMUs.
    pub hidden: &'r RangeSet,
    /// `dom0_mem`.
    pub memory: Dom0Memory,
    /// Bytes that other domains will take.
    pub others: u64,
    /// Where the kernel's segments go.
    pub segments: &'r [PhysRange],
    /// Where the unpacked ELF file lies now.
    pub kernel: PhysRange,
    /// Where the ramdisk lies now.
    pub ramdisk: Option<PhysRange>,
    /// Bytes of dom0's ACPI tables.
    pub acpi_size: u64,
    /// Bytes of the start-of-day data, its memory map not counted.
    pub start_info_size: u64,
}

/// Bytes to be copied before the kernel's segments are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    /// From here.
    pub from: PhysRange,
    /// To here, which overlaps neither `from` nor anything else in use.
    pub to: u64,
}

/// dom0's memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The map that dom0 sees, ascending, without overlap.
    pub map: Vec<GuestEntry>,
    /// RAM that becomes dom0's, 1:1, whole frames, the ACPI tables' frames included.
    pub ram: RangeSet,
    /// What else dom0 reaches 1:1: ACPI and firmware ranges, screen and ROMs.
    pub firmware: RangeSet,
    /// Where the ELF file is when the segments are copied out of it.
    pub kernel: PhysRange,
    /// Where the ramdisk ends up.
    pub ramdisk: Option<PhysRange>,
    /// Place for dom0's ACPI tables: whole frames, of the map's kind for ACPI.
    pub acpi: PhysRange,
    /// Place for the start-of-day data.
    pub start_info: PhysRange,
    /// Copies that come first.
    pub moves: Vec<Move>,
}

/// Why dom0 cannot be placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapError {
    /// More memory is asked for than is free.
    TooLittleMemory {
        /// Bytes asked for.
        asked: u64,
        /// Bytes free.
        free: u64,
    },
    /// The kernel is linked to where dom0 has no RAM.
    KernelPlace(PhysRange),
    /// There is no room for one of its parts.
    NoRoom(&'static str, u64),
}

impl fmt::Display for MapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLittleMemory { asked, free } => write!(
                f,
                "{} MiB of memory asked for, {} MiB free: lower dom0_mem (or the domain's \"memory\"), or give the machine more RAM",
                asked >> 20,
                free >> 20
            ),
            Self::KernelPlace(at) => write!(
                f,
                "kernel: linked to {at}, where the domain has no RAM: raise dom0_mem (or the domain's \"memory\"), or link it elsewhere"
            ),
            Self::NoRoom(what, size) => write!(
                f,
                "no room in the domain's memory for {what} of {} KiB: raise dom0_mem (or its \"memory\")",
                size.div_ceil(1024)
            ),
        }
    }
}

/// RAM by the machine's map, in whole frames; where entries overlap, what is not RAM wins.
fn host_ram(map: &[MapEntry]) -> RangeSet {
    let is_ram = |entry: &&MapEntry| entry.kind == MemmapType::Ram.number();
    let mut ram: RangeSet = map.iter().filter(is_ram).map(|e| e.range).collect();
    for entry in map.iter().filter(|e| !is_ram(e)) {
        ram.remove(entry.range);
    }
    let frames = ram.iter().map(|r| r.aligned_inner(PAGE));
    frames.collect()
}

pub(super) fn without(from: &RangeSet, taken: impl Iterator<Item = PhysRange>) -> RangeSet {
    let mut rest = from.clone();
    for range in taken {
        rest.remove(range.page_outer().unwrap_or(range));
    }
    rest
}

/// The part of a set that lies in a window.
pub(super) fn within(set: &RangeSet, window: PhysRange) -> RangeSet {
    set.iter().map(|r| r.intersection(&window)).collect()
}

/// The lowest `size` bytes of a set.
fn lowest(set: &RangeSet, size: u64) -> RangeSet {
    let mut left = size;
    let mut out = RangeSet::new();
    for range in set.iter() {
        let part = range.size().min(left);
        out.insert(PhysRange::between(range.start(), range.start() + part));
        left -= part;
    }
    out
}

/// Plans dom0's memory.
pub fn plan(request: &Request<'_>) -> Result<Plan, MapError> {
    let machine = host_ram(request.map);
    let free = without(&machine, request.own.iter());
    let asked = dom0_memory(&request.memory, free.size(), request.others);
    let asked = align_down(asked.saturating_add(PAGE - 1), PAGE);
    if asked > free.size() {
        return Err(MapError::TooLittleMemory {
            asked,
            free: free.size(),
        });
    }
    let ram = lowest(&free, asked);
    if let Some(outside) = request.segments.iter().find(|s| !ram.contains(s)) {
        return Err(MapError::KernelPlace(*outside));
    }

    // Where something is, comes from or goes to; grows with each choice.
    let sources = [Some(request.kernel), request.ramdisk];
    let mut busy: Vec<PhysRange> = sources.into_iter().flatten().collect();
    busy.extend(request.segments);
    let in_the_way = |at: &PhysRange| request.segments.iter().any(|s| s.overlaps(at));
    let mut moves = Vec::new();

    let ramdisk = match request.ramdisk {
        Some(from) if in_the_way(&from) || !within(&ram, BELOW_4G).contains(&from) => {
            let room = within(&without(&ram, busy.iter().copied()), BELOW_4G);
            let to = take(&room, from.size(), "a ramdisk")?;
            busy.push(to);
            moves.push(Move {
                from,
                to: to.start(),
            });
            Some(to)
        }
        other => other,
    };
    let kernel = if in_the_way(&request.kernel) {
        // Only until its segments are at their place: any free memory will do.
        let room = without(&free, busy.iter().copied());
        let to = take(&room, request.kernel.size(), "the unpacked kernel")?;
        busy.push(to);
        moves.push(Move {
            from: request.kernel,
            to: to.start(),
        });
        to
    } else {
        request.kernel
    };
    let room = within(&without(&ram, busy.iter().copied()), EARLY);
    let acpi = take(&room, request.acpi_size, "ACPI tables")?;
    let acpi = acpi.page_outer().unwrap_or(acpi);
    let room = without(&room, core::iter::once(acpi));

    let firmware = firmware(request, &machine);
    let map = guest_map(request.map, &machine, &ram, acpi);
    let entries = (map.len() as u64).saturating_mul(24);
    let size = request.start_info_size.saturating_add(entries);
    let start_info = start_info_place(&room, request.segments, size)?;
    Ok(Plan {
        map,
        ram,
        firmware,
        kernel,
        ramdisk,
        acpi,
        start_info,
        moves,
    })
}

pub(super) fn take(room: &RangeSet, size: u64, what: &'static str) -> Result<PhysRange, MapError> {
    room.highest_fit(size.max(1), PAGE)
        .ok_or(MapError::NoRoom(what, size))
}

/// Where start-of-day data goes: behind the kernel, as Xen has it, or where that is taken as low as can be. 32-bit Linux
/// reads it with little more mapped than memory up to its own end.
pub(super) fn start_info_place(
    room: &RangeSet,
    segments: &[PhysRange],
    size: u64,
) -> Result<PhysRange, MapError> {
    const NEAR: u64 = 1 << 20;
    let end = segments.iter().map(|s| s.end()).max().unwrap_or(0);
    let behind = PhysRange::between(end, end.saturating_add(NEAR));
    within(room, behind)
        .lowest_fit(size, PAGE)
        .or_else(|| room.lowest_fit(size, PAGE))
        .ok_or(MapError::NoRoom("start-of-day data", size))
}

/// What is not RAM and still mapped: what the map lists below 4 GiB, and what every PC has below 1 MiB.
fn firmware(request: &Request<'_>, machine: &RangeSet) -> RangeSet {
    let listed = request.map.iter().filter(|entry| {
        entry.kind != MemmapType::Ram.number()
            && entry.kind != MemmapType::Unusable.number()
            && entry.range.end() <= BELOW_4G.end()
    });
    let ranges = listed.map(|e| e.range.page_outer().unwrap_or(e.range));
    let set: RangeSet = ranges.chain(core::iter::once(LEGACY)).collect();
    let set = without(&set, request.hidden.iter());
    without(&set, machine.iter())
}

/// The map that dom0 sees: the machine's, with RAM that dom0 does not have as reserved, so that no device is put there.
fn guest_map(
    host: &[MapEntry],
    machine: &RangeSet,
    ram: &RangeSet,
    acpi: PhysRange,
) -> Vec<GuestEntry> {
    let mut out = Vec::new();
    let mut listed = RangeSet::new();
    let mut add = |range: PhysRange, kind: MemmapType, listed: &mut RangeSet| {
        let mut part: RangeSet = core::iter::once(range).collect();
        listed.iter().for_each(|other| part.remove(other));
        out.extend(part.iter().map(|range| GuestEntry { range, kind }));
        listed.insert(range);
    };
    add(acpi, MemmapType::Acpi, &mut listed);
    for range in ram.iter() {
        add(range, MemmapType::Ram, &mut listed);
    }
    for range in machine.iter() {
        add(range, MemmapType::Reserved, &mut listed);
    }
    for entry in host {
        match MemmapType::try_from(entry.kind) {
            // Parts of frames at the edges of RAM.
            Ok(MemmapType::Ram) => add(entry.range, MemmapType::Reserved, &mut listed),
            Ok(kind) => add(entry.range, kind, &mut listed),
            Err(_) => add(entry.range, MemmapType::Reserved, &mut listed),
        }
    }
    out.sort_by_key(|entry| entry.range.start());
    out
}

#[cfg(test)]
mod tests;
