//! Where everything goes, and what has no place.

use alloc::string::ToString;

use proptest::prelude::*;

use super::*;
use crate::domain_build::pv::layout::LayoutError;

#[test]
fn the_bootstrap_area_has_its_parts_in_order_and_packed() {
    let kernel = small();
    let request = Request {
        rings: true,
        ..request(&kernel, 16)
    };
    let layout = Layout::new(&request).unwrap();
    let ramdisk = layout.ramdisk.unwrap();
    let rings = layout.rings.unwrap();
    // Kernel 6 pages, ramdisk 3, list 8 (16 MiB), start info, store, console, tables 5 (4 MiB of addresses), stack.
    let parts = [
        ramdisk.frame.0,
        layout.list.frame.0,
        layout.start_info.0,
        rings.store.0,
        rings.console.0,
        layout.tables.root().0,
        layout.stack.0,
    ];
    assert_eq!(parts, [6, 9, 17, 18, 19, 20, 25]);
    assert_eq!(layout.tables.area_tables(), 5);
    assert_eq!(layout.area, 0..4 * MIB);
    assert_eq!(ramdisk.address, Some(6 * PAGE));
    assert_eq!((layout.list.address, layout.list.frames), (9 * PAGE, 8));
    assert!(!layout.list.outside);
    assert_eq!((layout.used, layout.frames), (1024, 4096));
}

#[test]
fn half_a_mib_behind_the_stack_is_free() {
    let mut kernel = small();
    kernel.segments.clear();
    let mut ends = Vec::new();
    for size in (2 * MIB..5 * MIB).step_by(PAGE_SIZE) {
        kernel.end = size;
        let layout = Layout::new(&request(&kernel, 16)).unwrap();
        let used = layout.address(layout.stack) + PAGE;
        assert!(layout.area.end - used >= 512 << 10);
        assert!(layout.area.end - used < (512 << 10) + 4 * MIB);
        assert_eq!(layout.area.end % (4 * MIB), 0);
        ends.push(layout.area.end);
    }
    ends.dedup();
    assert_eq!(ends, [4 * MIB, 8 * MIB]);
}

#[test]
fn linux_gets_ramdisk_and_list_outside_of_the_area() {
    let kernel = linux();
    let layout = Layout::new(&request(&kernel, 256)).unwrap();
    assert_eq!(layout.area, BASE..BASE + 20 * MIB);
    let ramdisk = layout.ramdisk.unwrap();
    assert_eq!((ramdisk.frame.0, ramdisk.address), (20 << 8, None));
    assert_eq!(ramdisk.size, RAMDISK.len() as u64);
    let list = layout.list;
    // 65,536 entries of 8 bytes.
    assert_eq!((list.frame.0, list.frames), ((20 << 8) + 3, 128));
    assert_eq!((list.address, list.outside), (0x80_0000_0000, true));
    assert_eq!(layout.tables.list_tables(), 3, "one of each level");
    assert_eq!(layout.used, (20 << 8) + 3 + 128 + 3);
    assert_eq!(layout.rings, None);
}

#[test]
fn too_little_memory_is_told_in_mib() {
    let kernel = linux();
    let error = Layout::new(&request(&kernel, 20)).unwrap_err();
    let needed = (20 << 8) + 3 + 10 + 3;
    let frames = 20 << 8;
    assert_eq!(error, LayoutError::TooSmall { needed, frames });
    assert!(
        error
            .to_string()
            .starts_with("20 MiB of memory do not hold")
    );
    assert!(
        error
            .to_string()
            .contains("which need 21 MiB: raise dom0_mem")
    );
    let kernel = small();
    assert!(Layout::new(&request(&kernel, 4)).is_ok());
    assert!(Layout::new(&request(&kernel, 3)).is_err());
}

#[test]
fn what_would_lie_in_the_hypervisors_addresses_is_refused() {
    let place = |kernel: &PvKernel<'_>, ramdisk, frames| {
        let request = Request {
            frames,
            ramdisk,
            ..request(kernel, 0)
        };
        match Layout::new(&request).unwrap_err() {
            LayoutError::Place(what, ..) => what,
            other => panic!("{other}"),
        }
    };
    let list = "its list of frames";
    let at = |init_p2m| PvKernel {
        init_p2m: Some(init_p2m),
        ..linux()
    };
    // Over the area, into the hypervisor's addresses, past the end.
    assert_eq!(place(&at(BASE - PAGE), None, 1 << 20), list);
    assert_eq!(place(&at((1 << 47) - PAGE), None, 1 << 20), list);
    assert_eq!(place(&at(!0xfff), None, 1 << 20), list);
    assert_eq!(place(&linux(), None, u64::MAX), list);
    let mapped = PvKernel {
        mod_start_pfn: false,
        ..linux()
    };
    let area = "the bootstrap area";
    assert_eq!(place(&mapped, Some(2 << 30), 1 << 20), area);
    assert_eq!(place(&mapped, Some(u64::MAX), 1 << 20), "its ramdisk");
    assert_eq!(place(&linux(), Some(u64::MAX), 1 << 20), "its ramdisk");
    let low = PvKernel {
        virt_base: (1 << 47) - 4 * MIB,
        start: (1 << 47) - 4 * MIB,
        end: (1 << 47) - PAGE,
        ..small()
    };
    assert_eq!(place(&low, None, 1 << 20), area);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_the_sizes_parts_are_apart_and_mapped(
        base in prop::sample::select(vec![0, 0x40_1000, BASE, 0x7f_ffc0_0000, 0xffff_8800_0000_0000]),
        kernel_pages in 1u64..3000,
        ramdisk in proptest::option::of(0u64..9000),
        init_p2m in proptest::option::of(prop::sample::select(vec![0x80_0000_0000u64, 0x7f_ff00_0000, 0x100_0000_0000, 64 << 20])),
        mod_start_pfn: bool,
        rings: bool,
        mib in 1u64..64,
    ) {
        let kernel = PvKernel {
            segments: vec![],
            start: base,
            end: base + kernel_pages * PAGE - 1,
            entry: base,
            virt_base: base,
            init_p2m,
            mod_start_pfn,
            hypercall_page: None,
            ..linux()
        };
        let request = Request { kernel: &kernel, frames: mib << 8, ramdisk, rings };
        let Ok(layout) = Layout::new(&request) else { return Ok(()) };
        let mut parts = vec![(0, kernel_pages), (layout.start_info.0, 1), (layout.stack.0, 1)];
        parts.extend(layout.ramdisk.map(|r| (r.frame.0, r.size.div_ceil(PAGE))));
        parts.push((layout.list.frame.0, layout.list.frames));
        parts.extend(layout.rings.map(|r| (r.store.0, 2)));
        parts.extend(layout.tables.tables().map(|t| (t.0, 1)));
        parts.sort_unstable();
        for two in parts.windows(2) {
            prop_assert!(two[0].0 + two[0].1 <= two[1].0 || two[0].1 == 0);
        }
        prop_assert!(parts.iter().all(|(first, count)| first + count <= layout.used));
        let frames = scattered(layout.frames);
        let mut memory = Used::default();
        layout.tables.write(&frames, |frame, table| {
            memory.write(frame, 0, zerocopy::IntoBytes::as_bytes(table))
        }).unwrap();
        let root = frames.mfn(layout.tables.root()).unwrap();
        let last = (layout.area.end - base) / PAGE - 1;
        for frame in [0, kernel_pages, layout.stack.0, last] {
            let found = memory.walk(root, base + frame * PAGE).unwrap();
            prop_assert_eq!(found.0, frames.mfn(Gfn(frame)).unwrap());
        }
        prop_assert!(!memory.walk(root, layout.address(layout.tables.root())).unwrap().1);
        prop_assert!(memory.walk(root, layout.list.address).unwrap().1);
        prop_assert!(memory.walk(root, layout.area.end).is_none_or(|_| layout.list.address == layout.area.end));
    }
}
