use super::super::{
    fdt::{Tree, Writer},
    memory::{BootMemory, MemoryError, Reserved},
    modules::{BootInfo, Module, places},
    range::{PhysRange, RangeSet},
};
use super::{machine, module};
use alloc::{string::ToString, vec::Vec};
use proptest::prelude::*;

const HYPERVISOR: PhysRange = PhysRange::between(0x4020_0000, 0x4040_0000);
const DEVICE_TREE: PhysRange = PhysRange::between(0x4800_0000, 0x4810_0000);

fn check(start: u32, size: u32, more: impl FnOnce(&mut Writer)) -> Result<(), MemoryError> {
    let blob = machine(1 << 30, |w| {
        module(
            w,
            &["multiboot,module", "multiboot,kernel"],
            start,
            size,
            None,
        );
        more(w);
    });
    let tree = Tree::parse(&blob).unwrap();
    let info = BootInfo::from_tree(&tree, &|_| None).unwrap();
    let memory = BootMemory::from_tree(&tree).unwrap();
    let modules: Vec<&Module<'_>> = info.modules();
    memory.check_modules(&modules, HYPERVISOR, DEVICE_TREE)
}

#[test]
fn modules_must_lie_in_ram_and_apart() {
    assert_eq!(check(0x4900_0000, 0x10_0000, |_| {}), Ok(()));
    let text = |start, size| check(start, size, |_| {}).unwrap_err().to_string();
    assert!(text(0x4900_0000, 0).contains("size is 0"));
    assert!(text(0x1000_0000, 16).contains("lies outside RAM"));
    assert!(text(0x7fff_ffff, 2).contains("0x7fffffff-0x80000000 lies outside RAM"));
    assert!(text(0x403f_ffff, 1).contains("overlaps the hypervisor at 0x40200000-0x403fffff"));
    assert!(text(0x4700_0000, 0x200_0000).contains("overlaps the device tree"));
    let two = check(0x4900_0000, 0x10_0000, |w| {
        module(
            w,
            &["multiboot,module", "multiboot,ramdisk"],
            0x490f_ffff,
            16,
            None,
        );
    });
    let text = two.unwrap_err().to_string();
    assert!(
        text.contains("module@0x490fffff") && text.contains("overlaps /chosen/module@0x49000000"),
        "{text}"
    );
}

#[test]
fn reserved_memory_is_neither_free_nor_a_place_for_modules() {
    let mut w = Writer::new();
    w.reserve(PhysRange::between(0x4100_0800, 0x4100_0900));
    w.begin("");
    w.u32("#address-cells", 2);
    w.u32("#size-cells", 2);
    w.begin("memory@40000000");
    w.text("device_type", "memory");
    w.cells(
        "reg",
        &[0, 0x4000_0000, 0, 0x1000_0000, 8, 0, 0, 0x1000_0000],
    );
    w.end();
    w.begin("reserved-memory");
    w.flag("ranges");
    w.begin("secure@42000000");
    w.flag("no-map");
    w.cells("reg", &[0, 0x4200_0000, 0, 0x1000]);
    w.end();
    w.begin("pool");
    w.cells("size", &[0, 0x10_0000]);
    w.end();
    w.end();
    w.begin("chosen");
    module(&mut w, &["multiboot,module"], 0x4200_0000, 0x10, None);
    let blob = w.finish();
    let tree = Tree::parse(&blob).unwrap();
    let mut memory = BootMemory::from_tree(&tree).unwrap();
    assert_eq!(memory.reserved.len(), 1);
    assert!(memory.reserved[0].no_map);
    memory.occupy(HYPERVISOR);
    let free: Vec<_> = memory.free().iter().map(|r| (r.start(), r.end())).collect();
    assert_eq!(
        free,
        [
            (0x4000_0000, 0x4020_0000),
            (0x4040_0000, 0x4100_0000),
            (0x4100_1000, 0x4200_0000),
            (0x4200_1000, 0x5000_0000),
            (0x8_0000_0000, 0x8_1000_0000),
        ]
    );
    let info = BootInfo::from_tree(&tree, &|_| None).unwrap();
    let error = memory
        .check_modules(&info.modules(), HYPERVISOR, DEVICE_TREE)
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("overlaps /reserved-memory/secure@42000000"),
        "{error}"
    );
}

/// 16 MiB at 1 GiB of which one MiB is reserved, with the hypervisor in the first and the tree in the middle of a page.
fn small_machine() -> BootMemory {
    let mut memory = BootMemory::default();
    memory.ram.insert(pages(0, 4096));
    memory.reserved.push(Reserved {
        range: pages(256, 256),
        path: "/reserved-memory/firmware".to_string(),
        no_map: false,
    });
    memory.occupy(pages(0, 256));
    memory.hold(TREE);
    memory
}

const TREE: PhysRange = PhysRange::between(0x4060_0800, 0x4060_0c00);

/// Some pages of the small machine.
fn pages(first: u64, count: u64) -> PhysRange {
    let start = 0x4000_0000 + first * 4096;
    PhysRange::between(start, start + count * 4096)
}

fn set(ranges: &[PhysRange]) -> RangeSet {
    ranges.iter().copied().collect()
}

#[test]
fn a_module_gives_back_every_frame_that_it_touches() {
    let mut memory = small_machine();
    let module = PhysRange::between(0x4080_0010, 0x4080_3010);
    memory.hold(module);
    assert!(!memory.free().overlaps(&pages(2048, 4)));
    assert_eq!(memory.freed_by(module), set(&[pages(2048, 4)]));
    assert_eq!(memory.done_with(module), set(&[pages(2048, 4)]));
    assert!(memory.free().contains(&pages(2048, 4)));
    // Once.
    assert!(memory.done_with(module).is_empty());
}

#[test]
fn a_frame_of_two_modules_is_free_when_both_are_done_with() {
    let mut memory = small_machine();
    let first = PhysRange::between(0x4080_0000, 0x4080_1800);
    let second = PhysRange::between(0x4080_1800, 0x4080_3000);
    memory.hold(first);
    memory.hold(second);
    assert_eq!(memory.done_with(first), set(&[pages(2048, 1)]));
    assert_eq!(memory.done_with(second), set(&[pages(2049, 2)]));
}

#[test]
fn a_module_beside_the_tree_leaves_it_its_frame() {
    let mut memory = small_machine();
    let module = PhysRange::between(TREE.end(), 0x4060_2000);
    memory.hold(module);
    assert_eq!(memory.done_with(module), set(&[pages(1537, 1)]));
    assert_eq!(memory.done_with(TREE), set(&[pages(1536, 1)]));
}

#[test]
fn what_a_module_has_no_right_to_is_not_free_after_it() {
    let mut memory = small_machine();
    let used = pages(2048, 16);
    memory.hold(used);
    let claims = [
        // The hypervisor, reserved memory, another module.
        pages(0, 600),
        pages(255, 2),
        pages(300, 1),
        pages(2040, 20),
        // Nothing at all, and nowhere.
        pages(4000, 0),
        pages(5000, 16),
        pages(4090, 16),
        PhysRange::between(0, u64::MAX),
    ];
    claims.iter().for_each(|claim| memory.hold(*claim));
    let mut freed = RangeSet::new();
    for claim in claims {
        for range in memory.done_with(claim).iter() {
            assert!(!freed.overlaps(&range), "{range} twice");
            freed.insert(range);
        }
    }
    let mut right = set(&[pages(512, 4096 - 512)]);
    right.remove(pages(1536, 1));
    right.remove(used);
    assert_eq!(freed, right);
    assert_eq!(memory.done_with_all(), set(&[pages(1536, 1), used]));
}

#[test]
fn what_the_loader_reserves_for_a_module_is_free_with_it_and_nothing_else_is() {
    let mut memory = small_machine();
    let module = PhysRange::between(0x4080_0000, 0x4080_1800);
    let within = pages(2100, 1);
    memory.kept = [pages(2048, 2), pages(2090, 40)].to_vec();
    memory.hold(module);
    memory.hold(within);
    assert!(memory.done_with(within).is_empty());
    assert_eq!(memory.done_with(module), set(&[pages(2048, 2)]));
}

proptest! {
    #[test]
    fn no_frame_is_given_twice_or_while_it_is_used(
        modules in proptest::collection::vec((0u64..4200 * 4096, 0u64..20_000), 0..8),
        order in proptest::collection::vec(any::<prop::sample::Index>(), 8),
    ) {
        let mut memory = small_machine();
        let mut held: Vec<PhysRange> = modules
            .iter()
            .map(|(at, size)| PhysRange::between(0x4000_0000 + at, 0x4000_0000 + at + size))
            .collect();
        held.iter().for_each(|range| memory.hold(*range));
        held.push(TREE);
        let mut given = memory.free();
        for index in order {
            if held.is_empty() {
                break;
            }
            let range = held.swap_remove(index.index(held.len()));
            let expected = memory.freed_by(range);
            let freed = memory.done_with(range);
            prop_assert_eq!(&freed, &expected);
            for part in freed.iter() {
                prop_assert_eq!(part, part.page_outer().unwrap());
                prop_assert!(memory.ram.contains(&part) && !given.overlaps(&part));
                prop_assert!(!part.overlaps(&pages(0, 512)));
                let used = held.iter().filter(|range| !range.is_empty());
                prop_assert!(used.clone().all(|r| !part.overlaps(&r.page_outer().unwrap())));
                given.insert(part);
            }
        }
        memory.done_with_all().iter().for_each(|part| given.insert(part));
        prop_assert_eq!(given, set(&[pages(512, 4096 - 512)]));
    }
}

#[test]
fn every_module_of_the_tree_has_its_place_whatever_it_is() {
    let blob = machine(1 << 30, |w| {
        w.cells("linux,initrd-start", &[0x4a00_0000]);
        w.cells("linux,initrd-end", &[0x4a10_0000]);
        for (compatible, at) in [
            (&["multiboot,module"][..], 0x4900_0000),
            // Two of one kind: the tree as a whole is refused.
            (&["multiboot,module", "multiboot,ramdisk"], 0x4910_0000),
            (&["multiboot,module", "multiboot,ramdisk"], 0x4920_0000),
            (&["no-module"], 0x4930_0000),
        ] {
            module(w, compatible, at, 16, None);
        }
        w.begin("domU");
        w.texts("compatible", &["xen,domain"]);
        w.u32("#address-cells", 2);
        w.u32("#size-cells", 2);
        module(w, &["multiboot,module"], 0x4940_0000, 16, None);
        w.end();
    });
    let tree = Tree::parse(&blob).unwrap();
    let starts: Vec<u64> = places(&tree).iter().map(PhysRange::start).collect();
    assert_eq!(starts, [0x4900_0000, 0x4910_0000, 0x4920_0000, 0x4940_0000]);
}

#[test]
fn a_ramdisk_in_linuxs_words_has_its_place_where_it_is_read() {
    let place = |initrd: [u32; 2], modules: &[(&[&str], u32)]| {
        let blob = machine(1 << 30, |w| {
            w.cells("linux,initrd-start", &initrd[..1]);
            w.cells("linux,initrd-end", &initrd[1..]);
            for (compatible, at) in modules {
                module(w, compatible, *at, 0x1000, None);
            }
        });
        let places = places(&Tree::parse(&blob).unwrap());
        places.iter().any(|place| place.start() == initrd[0].into())
    };
    let kernel = (&["multiboot,module"][..], 0x4900_0000);
    let ramdisk = (&["multiboot,module", "multiboot,ramdisk"][..], 0x4910_0000);
    let initrd = [0x4a00_0000, 0x4a10_0000];
    assert!(place(initrd, &[kernel]));
    // Nobody would read it.
    assert!(!place(initrd, &[]));
    assert!(!place(initrd, &[kernel, ramdisk]));
    // The same file with another end.
    assert!(!place(
        [0x4910_0800, 0x4910_1000],
        &[kernel, (&["multiboot,module"], 0x4910_0000)]
    ));
}

#[test]
fn a_tree_without_ram_is_refused() {
    let mut w = Writer::new();
    w.begin("");
    let blob = w.finish();
    let tree = Tree::parse(&blob).unwrap();
    assert_eq!(
        BootMemory::from_tree(&tree).unwrap_err(),
        MemoryError::NoRam
    );
}
