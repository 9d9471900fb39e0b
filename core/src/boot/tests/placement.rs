use super::super::{
    cmdline::{self, Dom0Memory},
    gzip,
    image::{Format, Kernel, tests::image},
    placement::{
        DomainPlan, GuestLayout, Load, PlacementError, Source, dom0_memory, plan_dom0, plan_domu,
    },
    range::{PhysRange, RangeSet},
};
use alloc::{string::ToString, vec::Vec};
use proptest::prelude::*;

const MIB: u64 = 1 << 20;

fn range(start: u64, size: u64) -> PhysRange {
    PhysRange::new(start, size).unwrap()
}

/// 2 GiB at 1 GiB, less the given ranges.
fn ram_without(taken: &[PhysRange]) -> RangeSet {
    let mut free: RangeSet = [range(0x4000_0000, 2 << 30)].into_iter().collect();
    for t in taken {
        free.remove(t.page_outer().unwrap());
    }
    free
}

fn options(line: &str) -> Dom0Memory {
    cmdline::parse(line).0.dom0_mem
}

struct Case {
    free: RangeSet,
    kernel: Vec<u8>,
    kernel_at: u64,
    ramdisk_at: Option<PhysRange>,
    line: &'static str,
}

impl Case {
    /// A kernel of 32 MiB in memory and 1 MiB in the file at `kernel_at`, and a ramdisk of 10 MiB and a bit.
    fn new(kernel_at: u64, ramdisk_at: u64, line: &'static str) -> Self {
        let kernel = image(0, 32 * MIB, 1 << 20);
        let ramdisk_at = range(ramdisk_at, 10 * MIB + 100);
        let hypervisor = range(0x4020_0000, 4 * MIB);
        Self {
            free: ram_without(&[hypervisor]),
            kernel,
            kernel_at,
            ramdisk_at: Some(ramdisk_at),
            line,
        }
    }

    fn plan(&self) -> Result<DomainPlan, PlacementError> {
        let kernel = Kernel::parse(&self.kernel, Format::Arm64).unwrap();
        let load = Load {
            kernel: &kernel,
            kernel_at: range(self.kernel_at, self.kernel.len() as u64),
            ramdisk_at: self.ramdisk_at,
            device_tree_size: 0x7000,
        };
        let plan = plan_dom0(&self.free, &options(self.line), 0, &load)?;
        self.check(&plan, &load);
        Ok(plan)
    }

    /// What must be true of every plan.
    fn check(&self, plan: &DomainPlan, load: &Load<'_>) {
        let banks: RangeSet = plan.banks.iter().map(|b| b.guest).collect();
        assert!(
            plan.banks
                .iter()
                .all(|b| b.direct && b.guest.start() % (2 * MIB) == 0),
            "{plan:?}"
        );
        let ramdisk = plan.ramdisk.map(|r| r.at).unwrap_or_default();
        let parts = [plan.kernel.at, ramdisk, plan.device_tree];
        for (i, part) in parts.iter().enumerate() {
            assert!(banks.contains(part), "{plan:?}");
            assert!(
                parts[..i].iter().all(|other| !part.overlaps(other)),
                "{plan:?}"
            );
        }
        // Frames come from what is free, those of a module only if it is used in place.
        assert!(
            banks.iter().all(|b| self.free.contains(&b)),
            "{plan:?} {:?}",
            self.free
        );
        if plan.kernel.source != Source::InPlace {
            assert!(!banks.overlaps(&load.kernel_at), "{plan:?}");
        }
        if plan.ramdisk.is_some_and(|r| r.source != Source::InPlace) {
            assert!(!banks.overlaps(&load.ramdisk_at.unwrap()), "{plan:?}");
        }
        assert_eq!(plan.kernel.at.start() % (2 * MIB), load.kernel.offset());
        assert!(plan.kernel.at.size() >= load.kernel.memory_size());
        assert_eq!(plan.entry, plan.kernel.at.start());
        assert_eq!(ramdisk.size(), load.ramdisk_at.unwrap_or_default().size());
        assert!(plan.device_tree.size() >= load.device_tree_size);
        let block = |at: u64| at / (2 * MIB);
        assert_eq!(
            block(plan.device_tree.start()),
            block(plan.device_tree.end() - 1)
        );
        let window = |at: u64| at >> 35;
        assert!(
            plan.ramdisk.is_none() || window(plan.kernel.at.start()) == window(ramdisk.end() - 1)
        );
    }
}

#[test]
fn aligned_modules_are_used_where_they_lie() {
    let plan = Case::new(0x4900_0000, 0x5500_0000, "dom0_mem=512M")
        .plan()
        .unwrap();
    assert_eq!(
        (plan.kernel.source, plan.ramdisk.unwrap().source),
        (Source::InPlace, Source::InPlace)
    );
    assert_eq!((plan.memory(), plan.entry), (512 * MIB, 0x4900_0000));
}

#[test]
fn a_window_slides_to_cover_what_is_in_place() {
    let plan = Case::new(0x6000_0000, 0x6800_0000, "dom0_mem=256M")
        .plan()
        .unwrap();
    assert_eq!(plan.kernel.source, Source::InPlace);
    assert_eq!(plan.ramdisk.unwrap().source, Source::InPlace);
    assert!(plan.memory() == 256 * MIB);
}

#[test]
fn a_kernel_at_an_odd_place_is_copied() {
    let plan = Case::new(0x4900_1000, 0x5500_0000, "dom0_mem=512M")
        .plan()
        .unwrap();
    assert!(matches!(plan.kernel.source, Source::Copy(_)));
    assert_eq!(plan.ramdisk.unwrap().source, Source::InPlace);
}

#[test]
fn a_kernel_without_room_behind_it_is_copied() {
    // The ramdisk starts inside the memory that the kernel clears.
    let plan = Case::new(0x4900_0000, 0x4a00_0000, "dom0_mem=512M")
        .plan()
        .unwrap();
    assert!(matches!(plan.kernel.source, Source::Copy(_)), "{plan:?}");
}

#[test]
fn modules_too_far_apart_for_the_domain_are_brought_together() {
    let plan = Case::new(0x4900_0000, 0xb000_0000, "dom0_mem=128M")
        .plan()
        .unwrap();
    assert_eq!(plan.kernel.source, Source::InPlace);
    assert!(matches!(plan.ramdisk.unwrap().source, Source::Copy(_)));
}

#[test]
fn a_packed_kernel_is_unpacked() {
    let mut case = Case::new(0x4900_0000, 0x5500_0000, "dom0_mem=512M");
    case.kernel = gzip::tests::pack(&case.kernel);
    let plan = case.plan().unwrap();
    assert!(matches!(plan.kernel.source, Source::Unpack(_)));
}

#[test]
fn too_much_memory_is_an_error_with_both_numbers() {
    let error = Case::new(0x4900_0000, 0x5500_0000, "dom0_mem=8G")
        .plan()
        .unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("8192 MiB of memory asked for, 2030 MiB free"),
        "{error}"
    );
}

#[test]
fn too_little_memory_for_the_modules_is_an_error() {
    let error = Case::new(0x4900_0000, 0x5500_0000, "dom0_mem=32M")
        .plan()
        .unwrap_err();
    assert!(
        matches!(error, PlacementError::DomainTooSmall { .. }),
        "{error}"
    );
}

#[test]
fn the_default_leaves_a_reserve() {
    let none = Dom0Memory::default();
    assert_eq!(dom0_memory(&none, 2048 * MIB, 0), 1920 * MIB);
    assert_eq!(dom0_memory(&none, 512 * MIB, 0), 448 * MIB);
    assert_eq!(dom0_memory(&none, 2048 * MIB, 256 * MIB), 512 * MIB);
    assert_eq!(dom0_memory(&none, 600 * MIB, 256 * MIB), 344 * MIB);
    let plan = Case::new(0x4900_0000, 0x5500_0000, "").plan().unwrap();
    assert!(plan.memory() > 1800 * MIB, "{plan:?}");
}

#[test]
fn a_module_is_not_used_in_place_where_a_frame_of_it_is_somebody_elses() {
    let in_place = |case: &Case| {
        let plan = case.plan().unwrap();
        (
            plan.kernel.source == Source::InPlace,
            plan.ramdisk.unwrap().source == Source::InPlace,
        )
    };
    let mut case = Case::new(0x4800_0000, 0x5000_0000, "dom0_mem=512M");
    assert_eq!(in_place(&case), (true, true));
    // Its last frame, of which it has 100 bytes.
    case.free.remove(range(0x50a0_0000, 0x1000));
    assert_eq!(in_place(&case), (true, false));
    case.free.remove(range(0x4800_0000, 0x1000));
    assert_eq!(in_place(&case), (false, false));
}

const GUEST: [PhysRange; 2] = [
    PhysRange::between(0x4000_0000, 0x1_0000_0000),
    PhysRange::between(0x2_0000_0000, 0x100_0000_0000),
];

#[test]
fn a_small_guest_is_placed_in_a_few_pages() {
    let file = image(0, 0x4_0000, 4096);
    let kernel = Kernel::parse(&file, Format::Arm64).unwrap();
    let load = Load {
        kernel: &kernel,
        kernel_at: range(0x4900_0000, 4096),
        ramdisk_at: None,
        device_tree_size: 4096,
    };
    let plan = plan_domu(GuestLayout { banks: &GUEST }, MIB, 64 * MIB, &load).unwrap();
    assert_eq!(plan.entry, 0x4000_0000);
    assert_eq!(plan.device_tree.end(), 0x4010_0000);
    assert!(!plan.banks[0].direct);
    let error = plan_domu(GuestLayout { banks: &GUEST }, MIB, 4096, &load).unwrap_err();
    assert!(matches!(error, PlacementError::TooLittleMemory { .. }));
    let large = plan_domu(GuestLayout { banks: &GUEST }, 4 << 30, 8 << 30, &load).unwrap();
    assert_eq!((large.banks.len(), large.memory()), (2, 4 << 30));
}

proptest! {
    #[test]
    fn every_plan_keeps_the_rules(
        kernel_at in 0u64..500, odd in any::<bool>(), ramdisk_at in 0u64..2000, mem in 40u64..2100,
        holes in proptest::collection::vec((0u64..2048, 1u64..200), 0..5),
    ) {
        let kernel_at = 0x4060_0000 + kernel_at * 2 * MIB + u64::from(odd) * 0x1000;
        let ramdisk_at = 0x4000_0000 + ramdisk_at * MIB;
        let mut case = Case::new(kernel_at, ramdisk_at, "");
        let kernel_range = range(kernel_at, MIB);
        prop_assume!(!case.ramdisk_at.unwrap().overlaps(&kernel_range));
        for (at, size) in holes {
            case.free.remove(range(0x4000_0000 + at * MIB, size * MIB));
        }
        let file = case.kernel.clone();
        let kernel = Kernel::parse(&file, Format::Arm64).unwrap();
        let load = Load {
            kernel: &kernel, kernel_at: kernel_range, ramdisk_at: case.ramdisk_at, device_tree_size: 0x7000,
        };
        let asked = options(&alloc::format!("dom0_mem={mem}M"));
        if let Ok(plan) = plan_dom0(&case.free, &asked, 0, &load) {
            case.check(&plan, &load);
            prop_assert_eq!(plan.memory(), mem * MIB);
        }
    }
}
