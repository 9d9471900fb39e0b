//! The memory of a domain beside dom0: RAM from 0 on, with a gap below 4 GiB where every PC has its local APICs, and where
//! its parts go. Any frames may stand behind it.

use alloc::vec::Vec;

use xenolith_abi::start_info::MemmapType;
use xenolith_core::boot::{PhysRange, RangeSet, range::align_down};

use super::memory_map::{
    BELOW_4G, EARLY, GuestEntry, MapError, PAGE, start_info_place, take, within, without,
};

/// RAM below 4 GiB ends here.
const GAP: u64 = 3 << 30;

/// What is to be placed.
#[derive(Clone, Copy, Debug)]
pub struct Request<'r> {
    /// Bytes of memory.
    pub memory: u64,
    /// Where the kernel's segments go.
    pub segments: &'r [PhysRange],
    /// Bytes of the ramdisk.
    pub ramdisk_size: Option<u64>,
    /// Bytes of the ACPI tables.
    pub acpi_size: u64,
    /// Bytes of the start-of-day data, its memory map not counted.
    pub start_info_size: u64,
}

/// A domain's memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The map that it sees, ascending, without overlap.
    pub map: Vec<GuestEntry>,
    /// Its RAM, whole frames, the ACPI tables' frames included.
    pub ram: RangeSet,
    /// Where the ramdisk goes.
    pub ramdisk: Option<PhysRange>,
    /// Where the ACPI tables go: whole frames.
    pub acpi: PhysRange,
    /// Where the start-of-day data goes.
    pub start_info: PhysRange,
}

/// Plans a domain's memory.
pub fn plan(request: &Request<'_>) -> Result<Plan, MapError> {
    let memory = align_down(request.memory, PAGE);
    let low = memory.min(GAP);
    let high = PhysRange::new(BELOW_4G.end(), memory - low).unwrap_or_default();
    let ram: RangeSet = [PhysRange::between(0, low), high].into_iter().collect();
    if let Some(outside) = request.segments.iter().find(|s| !ram.contains(s)) {
        return Err(MapError::KernelPlace(*outside));
    }
    let mut free = without(&ram, request.segments.iter().copied());
    let taken = |at: PhysRange, free: &mut RangeSet| {
        let frames = at.page_outer().unwrap_or(at);
        free.remove(frames);
        frames
    };
    let acpi = take(&within(&free, EARLY), request.acpi_size, "ACPI tables")?;
    let acpi = taken(acpi, &mut free);
    // RAM in three pieces at most, and the tables.
    let entries = 24 * 4;
    let size = request.start_info_size.saturating_add(entries);
    let start_info = start_info_place(&within(&free, EARLY), request.segments, size)?;
    let start_info = taken(start_info, &mut free);
    let ramdisk = request
        .ramdisk_size
        .map(|size| take(&within(&free, BELOW_4G), size, "a ramdisk"))
        .transpose()?;
    let of_kind = |set: &RangeSet, kind| -> Vec<GuestEntry> {
        set.iter().map(|range| GuestEntry { range, kind }).collect()
    };
    let mut map = of_kind(&without(&ram, core::iter::once(acpi)), MemmapType::Ram);
    map.push(GuestEntry {
        range: acpi,
        kind: MemmapType::Acpi,
    });
    map.sort_by_key(|entry| entry.range.start());
    Ok(Plan {
        map,
        ram,
        ramdisk,
        acpi,
        start_info,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn kernel() -> [PhysRange; 1] {
        [PhysRange::between(16 * MIB, 40 * MIB)]
    }

    fn request(memory: u64, segments: &[PhysRange]) -> Request<'_> {
        Request {
            memory,
            segments,
            ramdisk_size: Some(5 * MIB + 7),
            acpi_size: 700,
            start_info_size: 200,
        }
    }

    #[test]
    fn parts_lie_in_ram_and_apart() {
        for memory in [64 * MIB, 1024 * MIB, 6144 * MIB] {
            let segments = kernel();
            let plan = plan(&request(memory, &segments)).unwrap();
            assert_eq!(plan.ram.size(), memory);
            let parts = [plan.ramdisk.unwrap(), plan.acpi, plan.start_info];
            for (index, part) in parts.iter().enumerate() {
                assert!(plan.ram.contains(part) && !part.overlaps(&segments[0]));
                assert!(parts[..index].iter().all(|other| !other.overlaps(part)));
            }
            let listed: u64 = plan.map.iter().map(|entry| entry.range.size()).sum();
            assert_eq!(listed, memory);
            assert!(
                plan.map
                    .windows(2)
                    .all(|two| two[0].range.end() <= two[1].range.start())
            );
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let segments = kernel();
        assert_eq!(
            plan(&request(32 * MIB, &segments)),
            Err(MapError::KernelPlace(segments[0]))
        );
        assert!(matches!(
            plan(&request(0, &[])),
            Err(MapError::NoRoom("ACPI tables", _))
        ));
        let gap = [PhysRange::between(GAP, GAP + MIB)];
        assert_eq!(
            plan(&request(8 << 30, &gap)),
            Err(MapError::KernelPlace(gap[0]))
        );
        assert!(matches!(
            plan(&Request {
                ramdisk_size: Some(u64::MAX),
                ..request(64 * MIB, &segments)
            }),
            Err(MapError::NoRoom("a ramdisk", _))
        ));
    }
}
