//! The hypervisor's own page tables (stage 1 at EL2, Arm ARM DDI 0487 D8.3).
//!
//! The image is mapped by the first instructions (`boot/head.rs`); this module adds the direct map, devices and stacks.
//! Mappings are only ever added, but for the boot-time identity block. Every page is writable or executable, never both.

use core::sync::atomic::{AtomicU64, Ordering};

use xenolith_hal::{
    HostPhys, Mfn, NoMemory, PAGE_SIZE,
    sync::{Mutex, Rank},
};

use super::{direct, layout};
use crate::cpu::regs::{dsb_ish, dsb_ishst, isb};

/// How memory is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attribute {
    /// RAM: write-back, read and write.
    Ram,
    /// RAM that is only read.
    RamReadOnly,
    /// Device registers: nGnRE.
    Device,
}

const VALID: u64 = 1;
const TABLE: u64 = 0b11;
const ADDRESS: u64 = 0x0000_ffff_ffff_f000;
const COMMON: u64 = 1 << 6 | 1 << 10 | 1 << 54; // AP[1] RES1, access flag, never executable

impl Attribute {
    const fn bits(self) -> u64 {
        match self {
            Self::Ram => COMMON | 1 << 2 | 3 << 8,
            Self::RamReadOnly => COMMON | 1 << 2 | 3 << 8 | 1 << 7,
            Self::Device => COMMON,
        }
    }
}

/// Frames for tables while no allocator exists: a few pages of the image, then a piece of RAM.
const POOL: usize = 16;

#[repr(align(4096))]
struct Pool([[AtomicU64; 512]; POOL]);

static TABLES: Pool = Pool([const { [const { AtomicU64::new(0) }; 512] }; POOL]);

struct State {
    pool_used: usize,
    /// Next frame and end of the piece of RAM.
    ram: (u64, u64),
}

static STATE: Mutex<State> = Mutex::new(
    Rank::Frames,
    State {
        pool_used: 0,
        ram: (0, 0),
    },
);
static DEVICE_NEXT: AtomicU64 = AtomicU64::new(layout::DEVICE_VA);
static IMAGE_PHYS: AtomicU64 = AtomicU64::new(0);

unsafe extern "C" {
    static boot_l0: [AtomicU64; 512];
    static _end: u8;
}

/// Tells where the image was loaded. First of all calls here.
pub fn init(image: HostPhys) {
    IMAGE_PHYS.store(image.0, Ordering::Relaxed);
}

/// Physical address of a place in the image.
pub fn image_phys(va: u64) -> HostPhys {
    HostPhys(va - layout::IMAGE_VA + IMAGE_PHYS.load(Ordering::Relaxed))
}

/// The physical range of the image, whole pages.
pub fn image_range() -> core::ops::Range<HostPhys> {
    let end = core::ptr::addr_of!(_end) as u64;
    image_phys(layout::IMAGE_VA)..image_phys(end)
}

/// Physical address of the level-0 table.
pub fn root() -> HostPhys {
    image_phys(core::ptr::addr_of!(boot_l0) as u64)
}

/// Gives a range of zeroable RAM, already in the direct map, to take tables from.
pub fn set_table_ram(range: core::ops::Range<HostPhys>) {
    STATE.lock().ram = (range.start.0, range.end.0);
}

/// What is left of the range given to [`set_table_ram`]; no more tables come from it.
pub fn take_table_ram() -> core::ops::Range<HostPhys> {
    let mut state = STATE.lock();
    let (next, end) = core::mem::take(&mut state.ram);
    HostPhys(next)..HostPhys(end)
}

impl State {
    fn table(&mut self) -> Result<u64, NoMemory> {
        if self.ram.0 < self.ram.1 {
            let frame = self.ram.0;
            self.ram.0 += PAGE_SIZE as u64;
            direct::zero(HostPhys(frame).frame(), 0);
            return Ok(frame);
        }
        let entry = TABLES.0.get(self.pool_used).ok_or(NoMemory)?;
        self.pool_used += 1;
        Ok(image_phys(core::ptr::from_ref(entry) as u64).0)
    }
}

fn entries(table: u64) -> &'static [AtomicU64; 512] {
    let image = image_range();
    let va = if (image.start.0..image.end.0).contains(&table) {
        table - image.start.0 + layout::IMAGE_VA
    } else {
        layout::DIRECT_VA + table
    };
    // SAFETY: `table` is a page-table frame that this module took and never gives back; it is mapped in the image or in
    // the direct map, and all accesses are atomic.
    unsafe { &*(va as *const [AtomicU64; 512]) }
}

/// Maps `len` bytes (whole pages) at `va`. Ranges that are mapped already are left as they are.
pub fn map(va: u64, pa: HostPhys, len: u64, attribute: Attribute) -> Result<(), NoMemory> {
    let mut state = STATE.lock();
    let mut done = 0;
    while done < len {
        done += map_one(&mut state, va + done, pa.0 + done, len - done, attribute)?;
    }
    dsb_ishst();
    isb();
    Ok(())
}

fn map_one(
    state: &mut State,
    va: u64,
    pa: u64,
    left: u64,
    attribute: Attribute,
) -> Result<u64, NoMemory> {
    let mut table = root().0;
    for level in 0..4 {
        let shift = 39 - 9 * level;
        let size = 1u64 << shift;
        let entry = &entries(table)[(va >> shift) as usize & 511];
        let old = entry.load(Ordering::Relaxed);
        let fits = (va | pa) & (size - 1) == 0 && left >= size;
        if level == 3 || (level > 0 && fits && old & VALID == 0) {
            if old & VALID == 0 {
                let kind = if level == 3 { TABLE } else { VALID };
                entry.store(pa | attribute.bits() | kind, Ordering::Release);
            }
            return Ok(size - (va & (size - 1)));
        }
        if old & VALID == 0 {
            table = state.table()?;
            entry.store(table | TABLE, Ordering::Release);
        } else if old & TABLE == TABLE {
            table = old & ADDRESS;
        } else {
            return Ok(size - (va & (size - 1))); // a block covers it
        }
    }
    Ok(PAGE_SIZE as u64)
}

/// No device that is driven here has more registers: 64 MiB are redistributors for 512 CPUs.
const LARGEST_DEVICE: u64 = 64 << 20;

/// Maps device registers and gives their virtual address. The mapping stays for ever.
pub fn map_device(pa: HostPhys, len: u64) -> Result<*mut u8, NoMemory> {
    if len > LARGEST_DEVICE || pa.0 >= layout::DIRECT_LIMIT {
        return Err(NoMemory);
    }
    let mask = PAGE_SIZE as u64 - 1;
    let start = pa.0 & !mask;
    let size = ((pa.0 + len + mask) & !mask) - start;
    let va = DEVICE_NEXT.fetch_add(size + PAGE_SIZE as u64, Ordering::Relaxed);
    map(va, HostPhys(start), size, Attribute::Device)?;
    Ok((va + (pa.0 & mask)) as *mut u8)
}

/// Maps a piece of the device tree read-only at its window; `None` when no table is left.
pub fn map_device_tree(pa: HostPhys, len: u64) -> Option<u64> {
    let mask = PAGE_SIZE as u64 - 1;
    let start = pa.0 & !mask;
    let size = ((pa.0 + len + mask) & !mask) - start;
    map(
        layout::FDT_VA,
        HostPhys(start),
        size,
        Attribute::RamReadOnly,
    )
    .ok()?;
    Some(layout::FDT_VA + (pa.0 & mask))
}

/// Maps a stack for `cpu` from frames and gives its top. The page below stays unmapped.
pub fn map_stack(cpu: u64, frames: Mfn) -> Result<u64, NoMemory> {
    let bottom = layout::STACK_VA + cpu * layout::STACK_STRIDE + PAGE_SIZE as u64;
    map(bottom, frames.base(), layout::STACK_SIZE, Attribute::Ram)?;
    Ok(bottom + layout::STACK_SIZE)
}

/// Takes the identity block away, when no CPU needs it any more.
pub fn drop_identity() {
    let slot = (IMAGE_PHYS.load(Ordering::Relaxed) >> 39) as usize & 511;
    entries(root().0)[slot].store(0, Ordering::Release);
    dsb_ishst();
    // SAFETY: drops translations of addresses that no code uses; the image runs at its own slot.
    unsafe { core::arch::asm!("tlbi alle2is", options(nostack, preserves_flags)) }
    dsb_ish();
    isb();
}
