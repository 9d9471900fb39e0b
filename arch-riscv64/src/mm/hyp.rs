//! The hypervisor's own page tables in this machine's terms.

use core::sync::atomic::AtomicU64;

use xenolith_arch_common::{Access, Entry, Image, Paging, Tables};
use xenolith_hal::HostPhys;

use super::{layout, pte};

/// The address space that `boot/head.rs` begins.
pub enum Sv39 {}

/// The tables of it.
pub type Hyp = Tables<Sv39>;
/// Its direct map.
pub type Direct = xenolith_arch_common::Direct<Sv39>;

static IMAGE: Image = Image::unknown();

unsafe extern "C" {
    static boot_root: [AtomicU64; 512];
    static _image_start: u8;
    static _end: u8;
}

/// Tells where the image was loaded. First of all calls here.
pub fn init(image: HostPhys) {
    let size = core::ptr::addr_of!(_end) as u64 - core::ptr::addr_of!(_image_start) as u64;
    IMAGE.set(image, size);
}

impl Paging for Sv39 {
    const LEVELS: u32 = pte::LEVELS;
    const LARGEST_SHIFT: u32 = pte::LARGEST_SHIFT;
    const IMAGE_VA: u64 = layout::IMAGE_VA;
    const DIRECT_VA: u64 = layout::DIRECT_VA;
    const DIRECT_LIMIT: u64 = layout::DIRECT_LIMIT;
    const DEVICE_VA: u64 = layout::DEVICE_VA;
    const STACK_VA: u64 = layout::STACK_VA;

    fn table(table: u64) -> u64 {
        pte::entry(table, pte::POINTER)
    }

    fn leaf(pa: u64, _: u32, access: Access) -> u64 {
        pte::leaf(pa, access)
    }

    fn decode(entry: u64, _: u32) -> Entry {
        pte::decode(entry)
    }

    fn entries_added() {
        // SAFETY: drops cached translations only. Even new entries need it here: absent ones may be cached.
        unsafe { core::arch::asm!("sfence.vma", options(nostack, preserves_flags)) }
    }

    fn image() -> &'static Image {
        &IMAGE
    }

    fn root_va() -> u64 {
        core::ptr::addr_of!(boot_root) as u64
    }
}
