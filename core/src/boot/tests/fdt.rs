use super::super::fdt::{Node, Tree, TreeError, Writer, blob_size};
use super::super::range::PhysRange;
use alloc::{string::ToString, vec, vec::Vec};
use proptest::prelude::*;

/// A tree made by another writer.
fn by_vm_fdt() -> Vec<u8> {
    let reserve = vm_fdt::FdtReserveEntry::new(0x4000_0000, 0x1000).unwrap();
    let mut w = vm_fdt::FdtWriter::new_with_mem_reserv(&[reserve]).unwrap();
    let root = w.begin_node("").unwrap();
    w.property_u32("#address-cells", 2).unwrap();
    w.property_u32("#size-cells", 1).unwrap();
    w.property_u32("interrupt-parent", 1).unwrap();
    let aliases = w.begin_node("aliases").unwrap();
    w.property_string("serial0", "/soc/serial@1000").unwrap();
    w.end_node(aliases).unwrap();
    let gic = w.begin_node("gic").unwrap();
    w.property_phandle(1).unwrap();
    w.property_u32("#interrupt-cells", 3).unwrap();
    w.end_node(gic).unwrap();
    let soc = w.begin_node("soc").unwrap();
    w.property_u32("#address-cells", 1).unwrap();
    w.property_u32("#size-cells", 1).unwrap();
    w.property_array_u32("ranges", &[0, 0, 0x900_0000, 0x10_0000])
        .unwrap();
    let serial = w.begin_node("serial@1000").unwrap();
    w.property_string_list(
        "compatible",
        vec!["arm,pl011".into(), "arm,primecell".into()],
    )
    .unwrap();
    w.property_array_u32("reg", &[0x1000, 0x1000]).unwrap();
    w.property_array_u32("interrupts", &[0, 1, 4, 0, 2, 1])
        .unwrap();
    w.end_node(serial).unwrap();
    let outside = w.begin_node("timer@200000").unwrap();
    w.property_array_u32("reg", &[0x20_0000, 0x1000]).unwrap();
    w.property_string("status", "disabled").unwrap();
    w.end_node(outside).unwrap();
    w.end_node(soc).unwrap();
    w.end_node(root).unwrap();
    w.finish().unwrap()
}

#[test]
fn a_tree_of_another_writer_is_read() {
    let blob = by_vm_fdt();
    let tree = Tree::parse(&blob).unwrap();
    assert_eq!(
        tree.reservations(),
        [PhysRange::between(0x4000_0000, 0x4000_1000)]
    );
    let serial = tree.resolve("serial0:115200n8").unwrap();
    assert_eq!(serial.path(), "/soc/serial@1000");
    assert_eq!(tree.node("/soc/serial").map(|n| n.id()), Some(serial.id()));
    assert_eq!((serial.base_name(), serial.depth()), ("serial", 2));
    assert!(serial.is_compatible(&["arm,primecell"]) && !serial.is_compatible(&["arm"]));
    assert_eq!(tree.by_phandle(1).unwrap().name(), "gic");
    assert!(tree.by_phandle(2).is_none());
    let names: Vec<_> = tree.root().children().map(|n| n.name()).collect();
    assert_eq!(names, ["aliases", "gic", "soc"]);
    assert_eq!(tree.root().descendants().count(), 5);
}

#[test]
fn addresses_are_translated_through_the_buses_above() {
    let blob = by_vm_fdt();
    let tree = Tree::parse(&blob).unwrap();
    let serial = tree.node("/soc/serial").unwrap();
    assert_eq!(serial.reg(), Some(vec![(0x1000, 0x1000)]));
    assert_eq!(
        serial.physical_ranges(),
        [PhysRange::between(0x900_1000, 0x900_2000)]
    );
    // Past the end of the bus's window.
    assert_eq!(tree.node("/soc/timer").unwrap().physical_ranges(), []);
}

#[test]
fn interrupts_go_to_the_inherited_parent() {
    let blob = by_vm_fdt();
    let tree = Tree::parse(&blob).unwrap();
    let interrupts = tree.node("/soc/serial").unwrap().interrupts();
    assert_eq!(interrupts.len(), 2);
    assert_eq!(interrupts[1].cells(), [0, 2, 1]);
    assert_eq!(
        tree.by_id(interrupts[0].controller).map(|n| n.name()),
        Some("gic")
    );
}

#[test]
fn another_reader_reads_what_is_written() {
    let blob = by_vm_fdt();
    let tree = Tree::parse(&blob).unwrap();
    let copy = copy(&tree);
    let other = fdt::Fdt::new(&copy).unwrap();
    let serial = other.find_node("/soc/serial@1000").unwrap();
    assert!(serial.compatible().unwrap().all().any(|c| c == "arm,pl011"));
    assert_eq!(serial.property("interrupts").unwrap().value.len(), 24);
    assert_eq!(other.memory_reservations().count(), 1);
}

/// The tree, node by node, through the writer.
fn copy(tree: &Tree<'_>) -> Vec<u8> {
    let mut w = Writer::new();
    for range in tree.reservations() {
        w.reserve(*range);
    }
    fn node(w: &mut Writer, from: Node<'_, '_>) {
        w.begin(from.name());
        for p in from.properties() {
            w.property(p.name, p.value);
        }
        from.children().for_each(|c| node(w, c));
        w.end();
    }
    node(&mut w, tree.root());
    w.finish()
}

#[test]
fn errors_say_what_is_wrong_and_what_to_do() {
    let blob = by_vm_fdt();
    let text = |blob: &[u8]| Tree::parse(blob).err().unwrap().to_string();
    assert!(text(&blob[..100]).starts_with("device tree: truncated: "));
    assert!(text(&[0; 64]).contains("starts with 0x00000000"));
    assert_eq!(blob_size(&blob), Ok(blob.len()));
    let mut long = blob.clone();
    long[4..8].copy_from_slice(&(64u32 << 20).to_be_bytes());
    assert_eq!(
        Tree::parse(&long).err(),
        Some(TreeError::TooLarge(64 << 20))
    );
}

#[test]
fn deep_nesting_is_refused() {
    let mut w = Writer::new();
    for _ in 0..1000 {
        w.begin("a");
    }
    let error = Tree::parse(&w.finish()).err();
    assert_eq!(error, Some(TreeError::TooMany("levels")));
}

#[test]
fn absurd_cell_counts_are_looked_over() {
    let mut w = Writer::new();
    w.begin("");
    w.u32("#address-cells", u32::MAX);
    w.u32("#size-cells", u32::MAX);
    w.begin("a");
    w.cells("reg", &[0, 1, 2]);
    w.end();
    let blob = w.finish();
    let tree = Tree::parse(&blob).unwrap();
    assert_eq!(tree.root().address_cells(), 2);
    assert_eq!(tree.node("/a").unwrap().reg(), Some(vec![(1, 2)]));
}

/// Walks everything that a tree offers.
fn walk(tree: &Tree<'_>) {
    for node in tree.nodes() {
        let _ = (
            node.path(),
            node.reg(),
            node.physical_ranges(),
            node.interrupts(),
            node.interrupt_map(),
        );
        let _ = (
            node.texts("compatible").count(),
            node.is_enabled(),
            node.children().count(),
        );
        let _ = node.phandle().and_then(|p| tree.by_phandle(p));
    }
    let _ = tree.resolve("serial0").map(|n| n.path());
}

proptest! {
    #[test]
    fn damaged_trees_are_survived(
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..12),
        cut in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        let mut blob = by_vm_fdt();
        for (at, value) in damage {
            let at = at.index(blob.len());
            blob[at] = value;
        }
        if let Some(cut) = cut {
            blob.truncate(cut.index(blob.len()));
        }
        if let Ok(tree) = Tree::parse(&blob) {
            walk(&tree);
            let again = copy(&tree);
            let again = Tree::parse(&again).unwrap();
            prop_assert_eq!(again.nodes().count(), tree.nodes().count());
        }
    }

    #[test]
    fn garbage_behind_a_good_header_is_survived(words in proptest::collection::vec(
        prop_oneof![Just(1u32), Just(2), Just(3), Just(4), Just(9), 0u32..64, any::<u32>()], 0..200
    )) {
        let mut blob = by_vm_fdt();
        let start = u32::from_be_bytes(blob[8..12].try_into().unwrap()) as usize;
        for (at, word) in (start..).step_by(4).zip(words) {
            if let Some(place) = blob.get_mut(at..at + 4) {
                place.copy_from_slice(&word.to_be_bytes());
            }
        }
        if let Ok(tree) = Tree::parse(&blob) {
            walk(&tree);
        }
    }

    #[test]
    fn any_bytes_are_survived(blob in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(Tree::parse(&blob).is_err());
    }
}
