use super::super::{
    fdt::{Tree, Writer},
    memory::{BootMemory, MemoryError},
    modules::{BootInfo, Module},
    range::PhysRange,
};
use super::{machine, module};
use alloc::{string::ToString, vec::Vec};

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
