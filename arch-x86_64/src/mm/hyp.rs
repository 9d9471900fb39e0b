//! The hypervisor's own page tables in this machine's terms.

use core::sync::atomic::AtomicU64;

use xenolith_arch_common::{Access, Entry, Image, Paging, Tables};
use xenolith_hal::HostPhys;

use super::{layout, pte};

/// The address space that `boot/head.rs` begins.
pub enum FourLevels {}

/// The tables of it.
pub type Hyp = Tables<FourLevels>;
/// Its direct map.
pub type Direct = xenolith_arch_common::Direct<FourLevels>;

static IMAGE: Image = Image::unknown();

unsafe extern "C" {
    static hyp_root: [AtomicU64; 512];
    static _image_start: u8;
    static _end: u8;
}

/// Tells where the image was loaded. First of all calls here.
pub fn init(image: HostPhys) {
    let size = core::ptr::addr_of!(_end) as u64 - core::ptr::addr_of!(_image_start) as u64;
    IMAGE.set(image, size);
}

impl Paging for FourLevels {
    const LARGEST_SHIFT: u32 = pte::LARGEST_SHIFT;
    const IMAGE_VA: u64 = layout::IMAGE_VA;
    const DIRECT_VA: u64 = layout::DIRECT_VA;
    const DIRECT_LIMIT: u64 = layout::DIRECT_LIMIT;
    const DEVICE_VA: u64 = layout::DEVICE_VA;
    const STACK_VA: u64 = layout::STACK_VA;

    fn levels() -> u32 {
        pte::LEVELS
    }

    fn table(table: u64) -> u64 {
        table | pte::POINTER
    }

    fn leaf(pa: u64, level: u32, access: Access) -> u64 {
        pte::leaf(pa, level, access)
    }

    fn decode(entry: u64, level: u32) -> Entry {
        pte::decode(entry, level)
    }

    // Absent entries are never cached on x86.
    fn entries_added() {}

    fn image() -> &'static Image {
        &IMAGE
    }

    fn root_va() -> u64 {
        core::ptr::addr_of!(hyp_root) as u64
    }
}
