use std::{vec, vec::Vec};

use proptest::prelude::*;
use xenolith_abi::start_info::{HvmStartInfo, StartFlags};
use xenolith_core::boot::cmdline::MemorySize;

use super::super::start_info;
use super::*;
use crate::boot::info::{self, Protocol};

const MIB: u64 = 1 << 20;

fn entry(start: u64, end: u64, kind: u32) -> MapEntry {
    MapEntry {
        range: PhysRange::between(start, end),
        kind,
    }
}

/// As QEMU's firmware describes a PC with 1 GiB.
fn pc() -> Vec<MapEntry> {
    vec![
        entry(0, 0x9_fc00, 1),
        entry(0x9_fc00, 0xa_0000, 2),
        entry(0xf_0000, 0x10_0000, 2),
        entry(0x10_0000, 0x3ffd_f000, 1),
        entry(0x3ffd_f000, 0x4000_0000, 2),
        entry(0xfffc_0000, 1 << 32, 2),
        entry(0xfd_0000_0000, 1 << 40, 2),
    ]
}

struct Case {
    map: Vec<MapEntry>,
    own: RangeSet,
    hidden: RangeSet,
    memory: Dom0Memory,
    segments: Vec<PhysRange>,
    kernel: PhysRange,
    ramdisk: Option<PhysRange>,
}

impl Case {
    fn new() -> Self {
        let own = [(2 * MIB, 6 * MIB), (0x3f00_0000, 0x3ffd_f000)];
        Self {
            map: pc(),
            own: own.iter().map(|r| PhysRange::between(r.0, r.1)).collect(),
            hidden: RangeSet::new(),
            memory: Dom0Memory::default(),
            segments: vec![PhysRange::between(16 * MIB, 58 * MIB)],
            kernel: PhysRange::between(0x3000_0000, 0x3400_0000),
            ramdisk: Some(PhysRange::between(8 * MIB, 20 * MIB)),
        }
    }

    fn plan(&self) -> Result<Plan, MapError> {
        plan(&Request {
            map: &self.map,
            own: &self.own,
            hidden: &self.hidden,
            memory: self.memory,
            others: 0,
            segments: &self.segments,
            kernel: self.kernel,
            ramdisk: self.ramdisk,
            acpi_size: 5000,
            start_info_size: start_info::size(b"console=hvc0", b"", 0),
        })
    }
}

/// What must hold for every plan.
fn check(case: &Case, plan: &Plan) {
    for pair in plan.map.windows(2) {
        assert!(pair[0].range.end() <= pair[1].range.start());
    }
    assert!(case.own.iter().all(|own| !plan.ram.overlaps(&own)));
    let kind_of = |at: &PhysRange| {
        let mut holders = plan.map.iter().filter(|e| e.range.contains(at));
        holders.next().map(|e| e.kind)
    };
    assert_eq!(kind_of(&plan.acpi), Some(MemmapType::Acpi));
    for own in case.own.iter() {
        assert_eq!(kind_of(&own), Some(MemmapType::Reserved));
    }
    let mut placed = case.segments.clone();
    placed.extend([plan.acpi, plan.start_info, plan.kernel]);
    placed.extend(plan.ramdisk);
    for (index, one) in placed.iter().enumerate() {
        assert!(placed[..index].iter().all(|other| !other.overlaps(one)));
        if *one != plan.kernel {
            assert!(plan.ram.contains(one), "{one}");
        }
    }
    // No copy overwrites what another still reads, nor what it reads itself.
    let sources = [Some(case.kernel), case.ramdisk];
    for step in &plan.moves {
        let to = PhysRange::new(step.to, step.from.size()).unwrap();
        assert!(sources.iter().flatten().all(|from| !from.overlaps(&to)));
    }
}

#[test]
fn a_ramdisk_where_the_kernel_goes_is_moved_first() {
    let case = Case::new();
    let plan = case.plan().unwrap();
    check(&case, &plan);
    assert_eq!(plan.moves.len(), 1);
    assert_eq!(plan.moves[0].from, case.ramdisk.unwrap());
    assert_eq!(plan.kernel, case.kernel);
    let low = plan.map[0];
    assert_eq!(
        (low.range, low.kind),
        (PhysRange::between(0, 0x9_f000), MemmapType::Ram)
    );
    assert!(
        plan.firmware
            .contains(&PhysRange::between(0x9_f000, 0x10_0000))
    );
    assert!(
        !plan
            .firmware
            .overlaps(&PhysRange::between(0xfd_0000_0000, 1 << 40))
    );
}

#[test]
fn what_may_stay_is_used_in_place() {
    let mut case = Case::new();
    case.ramdisk = Some(PhysRange::between(0x1000_0000, 0x1000_1234));
    let plan = case.plan().unwrap();
    check(&case, &plan);
    assert_eq!((plan.moves.len(), plan.ramdisk), (0, case.ramdisk));
}

#[test]
fn a_kernel_file_below_its_own_segments_is_moved_too() {
    let mut case = Case::new();
    case.kernel = PhysRange::between(8 * MIB, 20 * MIB);
    case.ramdisk = Some(PhysRange::between(20 * MIB, 24 * MIB));
    let plan = case.plan().unwrap();
    check(&case, &plan);
    assert_eq!(plan.moves.len(), 2);
}

#[test]
fn dom0_gets_what_the_command_line_says_and_the_map_says_so() {
    let mut case = Case::new();
    case.memory.size = Some(MemorySize::Bytes(256 * MIB));
    let plan = case.plan().unwrap();
    check(&case, &plan);
    assert_eq!(plan.ram.size(), 256 * MIB);
    let ram = plan.map.iter().filter(|e| e.kind == MemmapType::Ram);
    let acpi = plan.acpi.size();
    assert_eq!(ram.map(|e| e.range.size()).sum::<u64>() + acpi, 256 * MIB);
    case.memory.size = Some(MemorySize::Bytes(2048 * MIB));
    assert!(matches!(case.plan(), Err(MapError::TooLittleMemory { .. })));
    case.memory.size = Some(MemorySize::Bytes(32 * MIB));
    assert!(matches!(case.plan(), Err(MapError::KernelPlace(_))));
}

#[test]
fn a_kernel_linked_to_the_hypervisor_s_place_is_refused() {
    let mut case = Case::new();
    case.segments = vec![PhysRange::between(MIB, 3 * MIB)];
    let error = case.plan().unwrap_err();
    assert!(std::format!("{error}").contains("linked to 0x100000-0x2fffff"));
}

#[test]
fn the_start_of_day_data_is_what_a_pvh_loader_would_leave() {
    let case = Case::new();
    let plan = case.plan().unwrap();
    let contents = start_info::Contents {
        flags: StartFlags::PRIVILEGED | StartFlags::INITDOMAIN,
        command_line: b"console=hvc0",
        ramdisk: plan.ramdisk.map(|at| (at, &b"mine"[..])),
        rsdp: plan.acpi.start(),
        map: &plan.map,
    };
    let at = plan.start_info.start();
    let blob = start_info::build(&contents, at);
    let room = start_info::size(b"console=hvc0", b"mine", plan.map.len());
    assert_eq!(blob.len() as u64, room);
    let look = |address: u64, len: usize| {
        let from = address.checked_sub(at)? as usize;
        // Texts are looked at up to the end of what is there.
        let blob: &'static [u8] = Vec::leak(blob.clone());
        blob.get(from..(from + len).min(blob.len()))
    };
    let read = info::read(Protocol::Pvh, at, &look).unwrap();
    assert_eq!(read.command_line, "console=hvc0");
    assert_eq!(read.rsdp, Some(plan.acpi.start()));
    assert_eq!(read.map.len(), plan.map.len());
    let modules: Vec<PhysRange> = read.modules.iter().map(|module| module.range).collect();
    assert_eq!(modules, [plan.ramdisk.unwrap()]);
    assert_eq!(size_of::<HvmStartInfo>(), 56);
}

#[test]
fn start_of_day_data_lies_where_a_32_bit_kernel_has_it_mapped() {
    let mut case = Case::new();
    let end = case.segments[0].end();
    case.ramdisk = None;
    assert_eq!(case.plan().unwrap().start_info.start(), end);
    case.ramdisk = Some(PhysRange::between(end, end + 30 * MIB));
    let plan = case.plan().unwrap();
    check(&case, &plan);
    assert_eq!(plan.start_info.start(), MIB);
}

proptest! {
    #[test]
    fn every_plan_keeps_its_promises(
        kernel in (1u64..0x3_f000, 1u64..0x2000), ramdisk in (1u64..0x3_f000, 1u64..0x2000),
        segment in (1u64..0x3_f000, 1u64..0x4000), memory in proptest::option::of(16u64..1100),
    ) {
        let mut case = Case::new();
        let range = |(start, size): (u64, u64)| PhysRange::between(start * 4096, (start + size) * 4096);
        (case.kernel, case.ramdisk) = (range(kernel), Some(range(ramdisk)));
        case.segments = vec![range(segment)];
        // Modules do not overlap each other, nor the hypervisor.
        prop_assume!(!case.kernel.overlaps(&range(ramdisk)));
        prop_assume!(!case.own.overlaps(&case.kernel) && !case.own.overlaps(&range(ramdisk)));
        case.memory.size = memory.map(|m| MemorySize::Bytes(m * MIB));
        if let Ok(plan) = case.plan() {
            check(&case, &plan);
        }
    }

    #[test]
    fn any_map_is_survived(entries in proptest::collection::vec((any::<u64>(), any::<u64>(), 0u32..9), 0..8)) {
        let mut case = Case::new();
        case.map = entries.iter().map(|(a, b, kind)| entry(*a.min(b), *a.max(b), *kind)).collect();
        let _ = case.plan();
        case.map.extend(pc());
        if let Ok(plan) = case.plan() {
            prop_assert!(plan.ram.size() > 0);
        }
    }
}
