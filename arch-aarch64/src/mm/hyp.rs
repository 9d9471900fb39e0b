//! The hypervisor's own page tables in this machine's terms (stage 1 at EL2, Arm ARM DDI 0487 D8.3).
//!
//! The image is mapped by the first instructions (`boot/head.rs`). Mappings are only ever added, but for the boot-time
//! identity block. Every page is writable or executable, never both.

use core::sync::atomic::{AtomicU64, Ordering};

use xenolith_arch_common::{Access, Entry, Image, Paging, Tables, is_ram_of_two};
use xenolith_hal::{HostPhys, Mfn, NoMemory};

use super::{direct, layout};
use crate::cpu::regs::{dsb_ish, dsb_ishst, isb};

/// EL2's address space, that `boot/head.rs` begins.
pub enum El2 {}

/// The tables of it.
pub type Hyp = Tables<El2>;

const VALID: u64 = 1;
/// A table, or a page of the last level.
const TABLE: u64 = 0b11;
const ADDRESS: u64 = 0x0000_ffff_ffff_f000;
const COMMON: u64 = 1 << 6 | 1 << 10 | 1 << 54; // AP[1] RES1, access flag, never executable
const LAST_LEVEL: u32 = 3;

const fn bits(access: Access) -> u64 {
    match access {
        // Write-back, inner shareable.
        Access::Ram => COMMON | 1 << 2 | 3 << 8,
        Access::RamReadOnly => COMMON | 1 << 2 | 3 << 8 | 1 << 7,
        // nGnRE.
        Access::Device => COMMON,
    }
}

static IMAGE: Image = Image::unknown();

unsafe extern "C" {
    static boot_l0: [AtomicU64; 512];
    static _end: u8;
}

/// Tells where the image was loaded. First of all calls here.
pub fn init(image: HostPhys) {
    IMAGE.set(image, core::ptr::addr_of!(_end) as u64 - layout::IMAGE_VA);
}

impl Paging for El2 {
    const LARGEST_SHIFT: u32 = 30;
    const IMAGE_VA: u64 = layout::IMAGE_VA;
    const DIRECT_VA: u64 = layout::DIRECT_VA;
    const DIRECT_LIMIT: u64 = layout::DIRECT_LIMIT;
    const DEVICE_VA: u64 = layout::DEVICE_VA;
    const STACK_VA: u64 = layout::STACK_VA;

    fn levels() -> u32 {
        LAST_LEVEL + 1
    }

    fn table(table: u64) -> u64 {
        table | TABLE
    }

    fn leaf(pa: u64, level: u32, access: Access) -> u64 {
        let kind = if level == LAST_LEVEL { TABLE } else { VALID };
        pa | bits(access) | kind
    }

    fn decode(entry: u64, level: u32) -> Entry {
        match entry & TABLE {
            TABLE if level < LAST_LEVEL => Entry::Table(entry & ADDRESS),
            kind if kind & VALID == 0 => Entry::Empty,
            _ => Entry::Leaf,
        }
    }

    fn entries_added() {
        dsb_ishst();
        isb();
    }

    fn image() -> &'static Image {
        &IMAGE
    }

    fn root_va() -> u64 {
        core::ptr::addr_of!(boot_l0) as u64
    }

    #[inline(always)]
    fn is_ram(mfn: Mfn) -> bool {
        is_ram_of_two(mfn)
    }

    #[inline(always)]
    unsafe fn zero(va: u64, len: usize) {
        // SAFETY: the caller's promise.
        unsafe { direct::zero(va, len) }
    }
}

/// No device that is driven here has more registers: 64 MiB are redistributors for 512 CPUs.
const LARGEST_DEVICE: u64 = 64 << 20;

/// Maps device registers and gives their virtual address. The mapping stays for ever.
pub fn map_device(pa: HostPhys, len: u64) -> Result<*mut u8, NoMemory> {
    if len > LARGEST_DEVICE || pa.0 >= layout::DIRECT_LIMIT {
        return Err(NoMemory);
    }
    Hyp::map_device(pa, len)
}

/// Maps a piece of the device tree read-only at its window; `None` when no table is left.
pub fn map_device_tree(pa: HostPhys, len: u64) -> Option<u64> {
    Hyp::map_window(layout::FDT_VA, pa, len, Access::RamReadOnly).ok()
}

/// Takes the identity block away, when no CPU needs it any more.
pub fn drop_identity() {
    let slot = (IMAGE.range().start.0 >> 39) as usize & 511;
    Hyp::root_entries()[slot].store(0, Ordering::Release);
    dsb_ishst();
    // SAFETY: drops translations of addresses that no code uses; the image runs at its own slot.
    unsafe { core::arch::asm!("tlbi alle2is", options(nostack, preserves_flags)) }
    dsb_ish();
    isb();
}
