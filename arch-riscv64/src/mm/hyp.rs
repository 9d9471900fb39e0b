//! The hypervisor's own page tables in this machine's terms.

use core::sync::atomic::{
    AtomicU32, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

use xenolith_arch_common::{Access, Entry, Image, Paging, Tables};
use xenolith_hal::HostPhys;

use super::{layout, pte};
use crate::cpu::regs::{read, write};

/// The hypervisor's address space: what `boot/head.rs` begins as Sv39, and [`widen`] makes Sv48.
pub enum Own {}

/// The tables of it.
pub type Hyp = Tables<Own>;
/// Its direct map.
pub type Direct = xenolith_arch_common::Direct<Own>;

static IMAGE: Image = Image::unknown();
static LEVELS: AtomicU32 = AtomicU32::new(3);

/// `satp.MODE` of Sv39; one more level is one more here.
pub const SATP_SV39: u64 = 8 << 60;
const SATP_SV48: u64 = 9 << 60;

#[repr(align(4096))]
struct Root([AtomicU64; 512]);

/// The root of Sv48. Its last entry is the root of Sv39, which holds the same addresses there.
static WIDE_ROOT: Root = Root([const { AtomicU64::new(0) }; 512]);

unsafe extern "C" {
    static boot_root: [AtomicU64; 512];
    /// What every hart puts into `satp`; see `boot/head.rs`.
    static boot_satp: AtomicU64;
    static _image_start: u8;
    static _end: u8;
}

/// Tells where the image was loaded. First of all calls here.
pub fn init(image: HostPhys) {
    let size = core::ptr::addr_of!(_end) as u64 - core::ptr::addr_of!(_image_start) as u64;
    IMAGE.set(image, size);
}

/// Goes on with Sv48, before there is a direct map and another hart; false if this CPU has not got it. No address changes.
pub fn widen() -> bool {
    let narrow_root = Hyp::root();
    let [.., last] = &WIDE_ROOT.0;
    last.store(pte::entry(narrow_root.0, pte::POINTER), Release);
    let wide = Hyp::image_phys(WIDE_ROOT.0.as_ptr() as u64).0 >> 12 | SATP_SV48;
    // A mode that the CPU has not got changes nothing. What has an address now keeps it.
    write!("satp", wide);
    if read!("satp") != wide {
        return false;
    }
    Own::entries_added();
    LEVELS.store(4, Release);
    // SAFETY: a word of the image that only this CPU writes, once, before others read it.
    unsafe { &*core::ptr::addr_of!(boot_satp) }.store(wide, Release);
    true
}

impl Paging for Own {
    const LARGEST_SHIFT: u32 = pte::LARGEST_SHIFT;
    const IMAGE_VA: u64 = layout::IMAGE_VA;
    const DIRECT_VA: u64 = layout::DIRECT_VA;
    const DIRECT_LIMIT: u64 = layout::DIRECT_LIMIT;
    const DEVICE_VA: u64 = layout::DEVICE_VA;
    const STACK_VA: u64 = layout::STACK_VA;

    fn levels() -> u32 {
        LEVELS.load(Relaxed)
    }

    fn direct_end() -> u64 {
        match Self::levels() {
            3 => layout::DIRECT_END_SV39,
            _ => Self::DIRECT_LIMIT,
        }
    }

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
        match LEVELS.load(Acquire) {
            3 => core::ptr::addr_of!(boot_root) as u64,
            _ => WIDE_ROOT.0.as_ptr() as u64,
        }
    }
}
