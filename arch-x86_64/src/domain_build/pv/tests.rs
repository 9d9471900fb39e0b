use alloc::{boxed::Box, collections::BTreeMap, collections::BTreeSet, vec, vec::Vec};

use xenolith_abi::{
    pv_start_info::{StartFlags, StartInfo, VgaConsoleInfo},
    version::Features,
};
use xenolith_core::boot::{
    PhysRange,
    elf::{Segment, pv::PvKernel},
};
use xenolith_hal::{Gfn, HostPhys, Mfn, PAGE_SIZE};
use zerocopy::FromBytes;

use super::{
    frames::FrameMap,
    hypercall_page,
    image::{Image, Memory, NoFrame},
    layout::{Layout, Request},
    start::PvStart,
    start_info::{Contents, MOST_TEXT},
    tables::TablePlan,
};

mod places;

const MIB: u64 = 1 << 20;
const PAGE: u64 = PAGE_SIZE as u64;
const BASE: u64 = 0xffff_ffff_8000_0000;
const TEXT: [u8; 0x1801] = [0xaa; 0x1801];
const DATA: [u8; 0x10] = [0xbb; 0x10];

/// Memory that was used before.
#[derive(Default)]
struct Used(BTreeMap<u64, Box<[u8; PAGE_SIZE]>>);

impl Used {
    fn frame(&mut self, frame: Mfn) -> &mut [u8; PAGE_SIZE] {
        self.0.entry(frame.0).or_insert(Box::new([0xee; PAGE_SIZE]))
    }

    fn word(&mut self, frame: Mfn, index: usize) -> u64 {
        let bytes = self.frame(frame)[index * 8..][..8].try_into();
        u64::from_le_bytes(bytes.unwrap())
    }

    /// What the guest has at an address, and whether it may write it.
    fn walk(&mut self, root: Mfn, address: u64) -> Option<(Mfn, bool)> {
        TablePlan::walk(root, address, |frame, index| Some(self.word(frame, index)))
    }

    fn byte(&mut self, root: Mfn, address: u64) -> u8 {
        let (frame, _) = self.walk(root, address).expect("it is mapped");
        self.frame(frame)[(address % PAGE) as usize]
    }
}

impl Memory for Used {
    fn write(&mut self, frame: Mfn, offset: usize, bytes: &[u8]) -> Option<()> {
        self.frame(frame)
            .get_mut(offset..offset + bytes.len())?
            .copy_from_slice(bytes);
        Some(())
    }

    fn zero(&mut self, frame: Mfn, offset: usize, len: usize) -> Option<()> {
        self.frame(frame).get_mut(offset..offset + len)?.fill(0);
        Some(())
    }
}

/// A kernel at 16 MiB, as Linux has it: two segments, the second almost all zeroes.
fn linux() -> PvKernel<'static> {
    let segment = |at: u64, size, bytes| Segment {
        memory: PhysRange::new(at, size).unwrap(),
        virt: BASE + at,
        bytes,
    };
    PvKernel {
        segments: vec![
            segment(16 * MIB, 0x2000, &TEXT[..]),
            segment(17 * MIB, 0x5004, &DATA[..]),
        ],
        start: BASE + 16 * MIB,
        end: BASE + 17 * MIB + 0x5004,
        entry: BASE + 16 * MIB + 0x40,
        virt_base: BASE,
        hypercall_page: None,
        init_p2m: Some(0x80_0000_0000),
        mod_start_pfn: true,
        suspend_cancel: true,
        supported: None,
        required: Features::empty(),
        l1_mfn_valid: vec![],
        guest_os: "linux",
    }
}

/// A small kernel at its physical addresses, which takes everything mapped.
fn small() -> PvKernel<'static> {
    PvKernel {
        segments: vec![Segment {
            memory: PhysRange::new(0, 0x6000).unwrap(),
            virt: 0,
            bytes: &TEXT,
        }],
        start: 0,
        end: 0x6000,
        entry: 0x20,
        virt_base: 0,
        hypercall_page: Some(0x3000),
        init_p2m: None,
        mod_start_pfn: false,
        suspend_cancel: false,
        ..linux()
    }
}

fn request<'k>(kernel: &'k PvKernel<'k>, mib: u64) -> Request<'k> {
    Request {
        kernel,
        frames: mib << 8,
        ramdisk: Some(RAMDISK.len() as u64),
        rings: false,
    }
}

const RAMDISK: [u8; 0x2345] = [0xcc; 0x2345];

/// The domain's frames in blocks, from the last on.
fn scattered(frames: u64) -> FrameMap {
    let mut map = FrameMap::default();
    let mut left = frames;
    let mut at = 0x10_0000;
    while left != 0 {
        let count = left.min(1 << (left.ilog2().min(9)));
        at -= count + 3;
        map.push(Mfn(at), count);
        left -= count;
    }
    map
}

fn contents() -> Contents<'static> {
    Contents {
        flags: StartFlags::empty(),
        command_line: b"console=hvc0",
        shared_info: HostPhys(0x1234_5000),
        store_port: 3,
        console_port: 4,
        screen: None,
    }
}

struct Built {
    layout: Layout,
    frames: FrameMap,
    memory: Used,
    start: PvStart,
    info: StartInfo,
}

impl Built {
    fn new(request: &Request<'_>, contents: Contents<'_>) -> Self {
        let layout = Layout::new(request).unwrap();
        let frames = scattered(layout.frames);
        let mut memory = Used::default();
        let image = Image {
            kernel: request.kernel,
            layout: &layout,
            ramdisk: request.ramdisk.map_or(&[], |_| &RAMDISK),
            contents,
        };
        image.write(&frames, &mut memory).unwrap();
        image.finish(&frames, &mut memory).unwrap();
        let start = PvStart::new(request.kernel, &layout, &frames).unwrap();
        let (frame, _) = memory.walk(start.root, start.regs.rsi).unwrap();
        let (info, _) = StartInfo::read_from_prefix(memory.frame(frame)).unwrap();
        Self {
            layout,
            frames,
            memory,
            start,
            info,
        }
    }

    fn mfn(&self, frame: Gfn) -> Mfn {
        self.frames.mfn(frame).unwrap()
    }

    fn byte(&mut self, address: u64) -> u8 {
        self.memory.byte(self.start.root, address)
    }
}

#[test]
fn frames_follow_each_other_in_the_order_in_which_they_were_given() {
    let mut map = FrameMap::default();
    assert!(map.is_empty() && map.mfn(Gfn(0)).is_none());
    map.push(Mfn(100), 4);
    map.push(Mfn(104), 4);
    map.push(Mfn(7), 0);
    map.push(Mfn(50), 2);
    assert_eq!(map.extents().count(), 2, "what continues is one piece");
    let all: Vec<_> = (0..11).map(|pfn| map.mfn(Gfn(pfn)).map(|m| m.0)).collect();
    let want: Vec<_> = (100..108).chain(50..52).map(Some).chain([None]).collect();
    assert_eq!((all, map.len()), (want, 10));
}

#[test]
fn every_address_of_the_area_has_its_own_frame_and_no_other_is_mapped() {
    for kernel in [linux(), small()] {
        let mut built = Built::new(&request(&kernel, 64), contents());
        let root = built.start.root;
        let tables: BTreeSet<_> = built.layout.tables.tables().map(|t| t.0).collect();
        let area = built.layout.area.clone();
        for frame in 0..(area.end - area.start) / PAGE {
            let found = built.memory.walk(root, area.start + frame * PAGE);
            let writable = !tables.contains(&frame);
            assert_eq!(found, Some((built.mfn(Gfn(frame)), writable)));
        }
        let list = built.layout.list;
        for index in 0..list.frames {
            let found = built.memory.walk(root, list.address + index * PAGE);
            let frame = built.mfn(list.frame.plus(index));
            assert_eq!(found, Some((frame, true)));
        }
        // No leaf and no table but these.
        let mut entries = 0;
        for table in built.layout.tables.tables().collect::<Vec<_>>() {
            let frame = built.mfn(table);
            entries += (0..512)
                .filter(|i| built.memory.word(frame, *i) != 0)
                .count() as u64;
        }
        let outside = if list.outside { list.frames } else { 0 };
        let leaves = (area.end - area.start) / PAGE + outside;
        assert_eq!(entries, leaves + tables.len() as u64 - 1);
        let root_words: Vec<_> = (256..272).map(|i| built.memory.word(root, i)).collect();
        assert_eq!(root_words, [0; 16], "the hypervisor's");
    }
}

#[test]
fn entries_have_the_bits_that_a_guest_in_ring_3_needs() {
    let kernel = linux();
    let mut built = Built::new(&request(&kernel, 64), contents());
    let root = built.start.root;
    let entry = built.memory.word(root, 511);
    assert_eq!(entry & 0xfff, 0x67);
    let third = built.memory.word(Mfn(entry >> 12), 510);
    assert_eq!(third & 0xfff, 0x67);
    let second = built.memory.word(Mfn(third >> 12), 0);
    assert_eq!(second & 0xfff, 0x67);
    let leaf = built.memory.word(Mfn(second >> 12), 0);
    assert_eq!(leaf & 0xfff, 0x67);
    assert_eq!(
        leaf >> 12,
        built.mfn(Gfn(0)).0 | 1 << 40,
        "for the kernel only"
    );
    let tables = built.layout.tables.root().0;
    let below = (tables >> 9) as usize;
    let table = built.memory.word(Mfn(third >> 12), below);
    let leaf = built.memory.word(Mfn(table >> 12), tables as usize % 512);
    assert_eq!(leaf & 0xfff, 0x25, "a table is not written");
}

#[test]
fn a_list_near_the_area_shares_its_tables() {
    // In the same last-level table, in the next one, and in the one before.
    for at in [4 * MIB, 5 * MIB, 6 * MIB, 1 << 30] {
        let kernel = PvKernel {
            init_p2m: Some(at),
            ..small()
        };
        let mut built = Built::new(&request(&kernel, 64), contents());
        let area = built.layout.area.clone();
        assert_eq!(area, 0..4 * MIB);
        let root = built.start.root;
        let list = built.layout.list;
        for index in 0..list.frames {
            let found = built.memory.walk(root, at + index * PAGE);
            assert_eq!(found, Some((built.mfn(list.frame.plus(index)), true)));
        }
        assert_eq!(built.memory.walk(root, at + list.frames * PAGE), None);
        let shared = built.layout.tables.list_tables();
        assert_eq!(shared, if at == 1 << 30 { 2 } else { 1 });
    }
    let kernel = PvKernel {
        init_p2m: Some(BASE - 64 * MIB),
        ..linux()
    };
    let mut built = Built::new(&request(&kernel, 64), contents());
    let found = built.memory.walk(built.start.root, BASE - 64 * MIB);
    assert_eq!(found, Some((built.mfn(built.layout.list.frame), true)));
}

#[test]
fn the_kernel_lies_at_its_addresses_with_zeroes_behind() {
    let kernel = linux();
    let mut built = Built::new(&request(&kernel, 64), contents());
    let text = BASE + 16 * MIB;
    assert_eq!([text, text + 0x1800].map(|at| built.byte(at)), [0xaa; 2]);
    assert_eq!(
        [text + 0x1801, text + 0x1fff].map(|at| built.byte(at)),
        [0; 2]
    );
    assert_eq!(built.byte(text + 0x2000), 0xee, "nobody's");
    let data = BASE + 17 * MIB;
    assert_eq!([data, data + 0xf].map(|at| built.byte(at)), [0xbb; 2]);
    for at in [0x10, 0xfff, 0x1000, 0x5003] {
        assert_eq!(built.byte(data + at), 0);
    }
    assert_eq!(built.byte(data + 0x5004), 0xee);
    let stack = built.start.regs.rsp;
    assert_eq!([stack - 1, stack - PAGE].map(|at| built.byte(at)), [0; 2]);
    let ramdisk = built.layout.ramdisk.unwrap();
    let [first, last] = [0, 2].map(|n| built.mfn(ramdisk.frame.plus(n)));
    assert_eq!(built.memory.frame(first)[..], RAMDISK[..PAGE_SIZE]);
    assert_eq!(built.memory.frame(last)[0x344..0x347], [0xcc, 0, 0]);
}

#[test]
fn the_hypercall_page_is_filled_where_the_kernel_wants_it() {
    let kernel = small();
    let mut built = Built::new(&request(&kernel, 16), contents());
    let (frame, _) = built.memory.walk(built.start.root, 0x3000).unwrap();
    assert_eq!(*built.memory.frame(frame), hypercall_page::page());
    assert_eq!(built.byte(0x4000), 0);
}

#[test]
fn the_list_tells_every_frame() {
    for kernel in [linux(), small()] {
        let mut built = Built::new(&request(&kernel, 33), contents());
        let (root, list) = (built.start.root, built.layout.list);
        for pfn in 0..built.layout.frames {
            let at = list.address + pfn * 8;
            let (frame, _) = built.memory.walk(root, at).unwrap();
            let word = built.memory.word(frame, (at % PAGE / 8) as usize);
            assert_eq!(word, built.mfn(Gfn(pfn)).0, "{pfn:#x}");
        }
    }
}

#[test]
fn dom0_is_told_its_memory_its_ramdisk_and_its_screen() {
    let kernel = linux();
    let screen = VgaConsoleInfo {
        video_type: VgaConsoleInfo::TEXT_MODE_3,
        ..VgaConsoleInfo::default()
    };
    let told = Contents {
        flags: StartFlags::PRIVILEGED | StartFlags::INITDOMAIN,
        screen: Some(screen),
        ..contents()
    };
    let mut built = Built::new(&request(&kernel, 64), told);
    let Built { info, layout, .. } = &built;
    assert_eq!(
        info.magic,
        *b"xen-3.0-x86_64\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"
    );
    assert_eq!(info.nr_pages, 64 << 8);
    assert_eq!(info.shared_info, 0x1234_5000);
    let flags = StartFlags::PRIVILEGED | StartFlags::INITDOMAIN | StartFlags::MOD_START_PFN;
    assert_eq!(info.flags, flags);
    assert_eq!((info.store_mfn, info.store_evtchn), (0, 0));
    assert_eq!(info.console.mfn, 1168 | 40 << 32);
    assert_eq!(info.pt_base, layout.address(layout.tables.root()));
    assert_eq!(info.nr_pt_frames, 13, "20 MiB of addresses, 3 tables above");
    assert_eq!(info.mfn_list, 0x80_0000_0000);
    assert_eq!((info.mod_start, info.mod_len), (20 << 8, 0x2345));
    assert_eq!(info.cmd_line[..13], *b"console=hvc0\0");
    assert_eq!(info.first_p2m_pfn, (20 << 8) + 3);
    assert_eq!(info.nr_p2m_frames, 32 + 3);
    let at = built.start.regs.rsi + 1168;
    assert_eq!(built.byte(at), 3);
}

#[test]
fn a_guest_is_told_its_rings_and_where_its_ramdisk_is_mapped() {
    let kernel = small();
    let request = Request {
        rings: true,
        ..request(&kernel, 16)
    };
    let mut built = Built::new(&request, contents());
    let rings = built.layout.rings.unwrap();
    let Built { info, layout, .. } = &built;
    assert_eq!(info.flags, StartFlags::empty());
    assert_eq!(
        (info.store_mfn, info.store_evtchn),
        (built.mfn(rings.store).0, 3)
    );
    let console = (info.console.mfn, info.console.evtchn);
    assert_eq!(console, (built.mfn(rings.console).0, 4));
    assert_eq!((info.mod_start, info.mod_len), (6 * PAGE, 0x2345));
    assert_eq!((info.mfn_list, info.nr_pt_frames), (layout.list.address, 5));
    assert_eq!((info.first_p2m_pfn, info.nr_p2m_frames), (0, 0));
    let address = layout.address(rings.console);
    assert_eq!(built.byte(address), 0, "nothing of before is in a ring");
}

#[test]
fn without_a_ramdisk_nothing_is_told_of_one() {
    let kernel = linux();
    let request = Request {
        ramdisk: None,
        ..request(&kernel, 64)
    };
    let info = Built::new(&request, contents()).info;
    assert_eq!(
        (info.flags, info.mod_start, info.mod_len),
        (StartFlags::empty(), 0, 0)
    );
    assert_eq!(info.console.mfn, 0, "and no screen");
}

#[test]
fn a_command_line_that_is_too_long_is_cut_and_still_ends() {
    let kernel = linux();
    let line = [b'x'; 2000];
    let told = Contents {
        command_line: &line,
        ..contents()
    };
    let info = Built::new(&request(&kernel, 64), told).info;
    assert!(info.cmd_line[..MOST_TEXT].iter().all(|byte| *byte == b'x'));
    assert_eq!(info.cmd_line[MOST_TEXT], 0);
    assert_eq!(info.nr_p2m_frames, 35, "what follows is whole");
}

#[test]
fn the_first_vcpu_starts_at_the_entry_with_flat_segments() {
    let kernel = linux();
    let built = Built::new(&request(&kernel, 64), contents());
    let (regs, layout) = (built.start.regs, &built.layout);
    assert_eq!(regs.rip, kernel.entry);
    assert_eq!(regs.rsp, layout.address(layout.stack) + PAGE);
    assert_eq!(regs.rsi, layout.address(layout.start_info));
    assert_eq!(regs.rflags, 0x202);
    assert_eq!((regs.cs, regs.ss), (0xe033, 0xe02b));
    assert_eq!([regs.ds, regs.es, regs.fs, regs.gs], [0; 4]);
    assert_eq!(built.start.root, built.mfn(layout.tables.root()));
    assert_eq!((regs.rax, regs.rdi, regs.rbp, regs.r15), (0, 0, 0, 0));
}

#[test]
fn a_frame_that_is_missing_is_an_error() {
    let kernel = linux();
    let layout = Layout::new(&request(&kernel, 64)).unwrap();
    let image = Image {
        kernel: &kernel,
        layout: &layout,
        ramdisk: &RAMDISK,
        contents: contents(),
    };
    let mut memory = Used::default();
    let few = scattered(layout.used - 1);
    assert_eq!(image.write(&few, &mut memory), Err(NoFrame));
    let enough = scattered(layout.used);
    assert_eq!(image.write(&enough, &mut memory), Ok(()));
    assert_eq!(image.finish(&enough, &mut memory), Err(NoFrame));
    let all = scattered(layout.frames);
    assert_eq!(image.finish(&all, &mut memory), Ok(()));
}
