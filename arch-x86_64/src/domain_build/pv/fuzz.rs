//! Fuzzing: any bytes as a PV kernel, built into a domain of which nothing is kept.

use xenolith_abi::pv_start_info::StartFlags;
use xenolith_core::boot::elf::{Elf, fuzz_elf, pv::PvKernel};
use xenolith_hal::{HostPhys, Mfn, PAGE_SIZE};

use super::{
    frames::FrameMap,
    image::{Image, Memory},
    layout::{Layout, Request},
    start::PvStart,
    start_info::Contents,
};

const FRAMES: u64 = 64 << 8;
const FIRST: u64 = 0x1000;

/// The domain's memory and nothing else.
struct Nowhere;

impl Memory for Nowhere {
    fn write(&mut self, frame: Mfn, offset: usize, bytes: &[u8]) -> Option<()> {
        self.zero(frame, offset, bytes.len())
    }

    fn zero(&mut self, frame: Mfn, offset: usize, len: usize) -> Option<()> {
        assert!((FIRST..FIRST + FRAMES).contains(&frame.0), "{frame:?}");
        assert!(offset.checked_add(len).is_some_and(|end| end <= PAGE_SIZE));
        Some(())
    }
}

/// Nothing that stands in a kernel's file makes its domain's builder leave the domain's memory or stop half-way.
pub fn fuzz_pv_kernel(bytes: &[u8]) {
    fuzz_elf(bytes);
    let Ok(elf) = Elf::parse(bytes) else { return };
    let Ok(kernel) = PvKernel::new(&elf) else {
        return;
    };
    let ramdisk = [7; PAGE_SIZE + 1];
    for rings in [false, true] {
        let request = Request {
            kernel: &kernel,
            frames: FRAMES,
            ramdisk: Some(ramdisk.len() as u64),
            rings,
        };
        let Ok(layout) = Layout::new(&request) else {
            continue;
        };
        let mut frames = FrameMap::default();
        frames.push(Mfn(FIRST), FRAMES);
        let image = Image {
            kernel: &kernel,
            layout: &layout,
            ramdisk: &ramdisk,
            contents: Contents {
                flags: StartFlags::empty(),
                command_line: b"console=hvc0",
                shared_info: HostPhys(0),
                store_port: 0,
                console_port: 0,
                screen: None,
            },
        };
        assert_eq!(image.write(&frames, &mut Nowhere), Ok(()));
        assert_eq!(image.finish(&frames, &mut Nowhere), Ok(()));
        assert!(PvStart::new(&kernel, &layout, &frames).is_some());
    }
}
