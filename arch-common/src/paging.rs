//! The hypervisor's own page tables: the walk, with the entries' meaning left to the architecture.
//!
//! The image is mapped by the first instructions; this adds the direct map, devices and stacks. Mappings are only ever
//! added. No page is writable and executable: what is mapped here is never executable at all.

use core::{
    marker::PhantomData,
    ops::Range,
    sync::atomic::{AtomicU64, Ordering},
};

use xenolith_hal::{
    HostPhys, Mfn, NoMemory, PAGE_SIZE,
    sync::{Mutex, Rank},
};

use crate::Direct;

/// How memory is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// RAM: cached, read and write.
    Ram,
    /// RAM that is only read.
    RamReadOnly,
    /// Device registers: read and write, not cached.
    Device,
}

/// What an entry says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Nothing.
    Empty,
    /// The next table, at this address.
    Table(u64),
    /// A mapping.
    Leaf,
}

/// An architecture's address space and page-table entries.
pub trait Paging: Sized + Send + Sync + 'static {
    /// log2 bytes of the largest block that one entry maps.
    const LARGEST_SHIFT: u32;
    /// Where the image is linked.
    const IMAGE_VA: u64;
    /// Address of physical address 0 in the direct map.
    const DIRECT_VA: u64;
    /// Physical addresses at or above this (a power of two) never have a place in the direct map.
    const DIRECT_LIMIT: u64;
    /// First address of the device window.
    const DEVICE_VA: u64;
    /// First address of the CPU stacks.
    const STACK_VA: u64;

    /// Table levels; the last one holds 4 KiB pages.
    fn levels() -> u32;
    /// Where the direct map ends with as many levels, as a physical address.
    fn direct_end() -> u64 {
        Self::DIRECT_LIMIT
    }
    /// The entry that points to a table.
    fn table(table: u64) -> u64;
    /// The entry that maps `pa` at a level (0 is the root).
    fn leaf(pa: u64, level: u32, access: Access) -> u64;
    /// What an entry found at a level says.
    fn decode(entry: u64, level: u32) -> Entry;
    /// Makes new entries visible to this CPU's table walks.
    fn entries_added();
    /// Where the image is: the root table is in it.
    fn image() -> &'static Image;
    /// Virtual address of the root table, in the image.
    fn root_va() -> u64;
}

/// Where the image was loaded.
pub struct Image {
    start: AtomicU64,
    size: AtomicU64,
}

impl Image {
    /// Not known yet.
    #[must_use]
    pub const fn unknown() -> Self {
        Self {
            start: AtomicU64::new(0),
            size: AtomicU64::new(0),
        }
    }

    /// Tells where the image is; first of all calls.
    pub fn set(&self, start: HostPhys, size: u64) {
        self.start.store(start.0, Ordering::Relaxed);
        self.size.store(size, Ordering::Relaxed);
    }

    /// The physical range, whole pages.
    pub fn range(&self) -> Range<HostPhys> {
        let start = self.start.load(Ordering::Relaxed);
        HostPhys(start)..HostPhys(start + self.size.load(Ordering::Relaxed))
    }
}

/// Bytes of a CPU's stack.
pub const STACK_SIZE: u64 = 32 * 1024;
/// Distance between the stacks of two CPUs.
const STACK_STRIDE: u64 = 64 * 1024;

/// Tables while no RAM is mapped: a few pages of the image.
const POOL: usize = 16;

#[repr(align(4096))]
struct Pool([[AtomicU64; 512]; POOL]);

static POOL_TABLES: Pool = Pool([const { [const { AtomicU64::new(0) }; 512] }; POOL]);

struct State {
    pool_used: usize,
    /// Next frame and end of the piece of RAM that tables come from.
    ram: Range<u64>,
}

static STATE: Mutex<State> = Mutex::new(
    Rank::Frames,
    State {
        pool_used: 0,
        ram: 0..0,
    },
);
static DEVICE_USED: AtomicU64 = AtomicU64::new(0);

/// The hypervisor's page tables.
pub struct Tables<P>(PhantomData<P>);

impl<P: Paging> Tables<P> {
    /// Physical address of a place in the image.
    pub fn image_phys(va: u64) -> HostPhys {
        HostPhys(va - P::IMAGE_VA + P::image().range().start.0)
    }

    /// Physical address of the root table.
    pub fn root() -> HostPhys {
        Self::image_phys(P::root_va())
    }

    /// Gives a range of RAM, already in the direct map, to take tables from.
    pub fn set_table_ram(range: Range<HostPhys>) {
        STATE.lock().ram = range.start.0..range.end.0;
    }

    /// What is left of the range given to [`Self::set_table_ram`]; no more tables come from it.
    pub fn take_table_ram() -> Range<HostPhys> {
        let range = core::mem::replace(&mut STATE.lock().ram, 0..0);
        HostPhys(range.start)..HostPhys(range.end)
    }

    fn new_table(state: &mut State) -> Result<u64, NoMemory> {
        if state.ram.start < state.ram.end {
            let frame = state.ram.start;
            state.ram.start += PAGE_SIZE as u64;
            Direct::<P>::zero(HostPhys(frame).frame(), 0);
            return Ok(frame);
        }
        let table = POOL_TABLES.0.get(state.pool_used).ok_or(NoMemory)?;
        state.pool_used += 1;
        Ok(Self::image_phys(core::ptr::from_ref(table) as u64).0)
    }

    fn entries(table: u64) -> &'static [AtomicU64; 512] {
        let image = P::image().range();
        let va = if (image.start.0..image.end.0).contains(&table) {
            table - image.start.0 + P::IMAGE_VA
        } else {
            P::DIRECT_VA + table
        };
        // SAFETY: `table` is a table of the boot code or one that this module took and never gives back; it is mapped in
        // the image or in the direct map, and all accesses are atomic.
        unsafe { &*(va as *const [AtomicU64; 512]) }
    }

    /// Maps `len` bytes (whole pages) at `va`. What is mapped already is left as it is.
    pub fn map(va: u64, pa: HostPhys, len: u64, access: Access) -> Result<(), NoMemory> {
        let mut state = STATE.lock();
        let mut done = 0;
        while done < len {
            done += Self::map_one(&mut state, va + done, pa.0 + done, len - done, access)?;
        }
        P::entries_added();
        Ok(())
    }

    /// Maps one block and tells how many bytes of the rest are done with.
    fn map_one(
        state: &mut State,
        va: u64,
        pa: u64,
        left: u64,
        access: Access,
    ) -> Result<u64, NoMemory> {
        let mut table = Self::root().0;
        for level in 0..P::levels() {
            let shift = 12 + 9 * (P::levels() - 1 - level);
            let size = 1u64 << shift;
            let slot = &Self::entries(table)[(va >> shift) as usize & 511];
            let fits = shift <= P::LARGEST_SHIFT && (va | pa) & (size - 1) == 0 && left >= size;
            match P::decode(slot.load(Ordering::Relaxed), level) {
                Entry::Empty if fits => {
                    slot.store(P::leaf(pa, level, access), Ordering::Release);
                    return Ok(size);
                }
                Entry::Empty => {
                    table = Self::new_table(state)?;
                    slot.store(P::table(table), Ordering::Release);
                }
                Entry::Table(next) => table = next,
                Entry::Leaf => return Ok(size - (va & (size - 1))),
            }
        }
        Ok(PAGE_SIZE as u64)
    }

    /// Maps the pages around a physical range read-only in a window at `va`; the address of its first byte.
    pub fn map_window(va: u64, pa: HostPhys, len: u64, access: Access) -> Result<u64, NoMemory> {
        let mask = PAGE_SIZE as u64 - 1;
        let start = pa.0 & !mask;
        let size = (pa.0 & mask).saturating_add(len).saturating_add(mask) & !mask;
        Self::map(va, HostPhys(start), size, access)?;
        Ok(va + (pa.0 & mask))
    }

    /// Maps device registers and gives their virtual address. The mapping stays for ever.
    pub fn map_device(pa: HostPhys, len: u64) -> Result<*mut u8, NoMemory> {
        let pages = len.div_ceil(PAGE_SIZE as u64) + 2; // one for the offset, one unmapped between devices
        let va = P::DEVICE_VA + DEVICE_USED.fetch_add(pages * PAGE_SIZE as u64, Ordering::Relaxed);
        Ok(Self::map_window(va, pa, len, Access::Device)? as *mut u8)
    }

    /// Makes one page of device registers that was mapped, as a page, lead elsewhere; false if it was not. Nobody uses the
    /// address meanwhile, and who does afterwards first drops what its CPU cached of it.
    pub fn redirect(va: u64, pa: HostPhys) -> bool {
        let mut table = Self::root().0;
        for level in 0..P::levels() {
            let shift = 12 + 9 * (P::levels() - 1 - level);
            let slot = &Self::entries(table)[(va >> shift) as usize & 511];
            match P::decode(slot.load(Ordering::Relaxed), level) {
                Entry::Table(next) => table = next,
                Entry::Leaf if level + 1 == P::levels() => {
                    slot.store(P::leaf(pa.0, level, Access::Device), Ordering::Release);
                    return true;
                }
                _ => return false,
            }
        }
        false
    }

    /// The last-level entries of `count` pages from `va` on, which one table holds. The caller writes them.
    pub fn page_slots(va: u64, count: usize) -> Result<&'static [AtomicU64], NoMemory> {
        let mut state = STATE.lock();
        let mut table = Self::root().0;
        for level in 0..P::levels() - 1 {
            let slot =
                &Self::entries(table)[(va >> (12 + 9 * (P::levels() - 1 - level))) as usize & 511];
            table = match P::decode(slot.load(Ordering::Relaxed), level) {
                Entry::Table(next) => next,
                Entry::Leaf => return Err(NoMemory),
                Entry::Empty => {
                    let next = Self::new_table(&mut state)?;
                    slot.store(P::table(next), Ordering::Release);
                    next
                }
            };
        }
        let first = (va >> 12) as usize & 511;
        Self::entries(table)
            .get(first..first + count)
            .ok_or(NoMemory)
    }

    /// The table of the last level that covers an address, if there is one.
    #[must_use]
    pub fn last_table(va: u64) -> Option<HostPhys> {
        let mut table = Self::root().0;
        for level in 0..P::levels() - 1 {
            let shift = 12 + 9 * (P::levels() - 1 - level);
            let slot = Self::entries(table).get((va >> shift) as usize & 511)?;
            match P::decode(slot.load(Ordering::Relaxed), level) {
                Entry::Table(next) => table = next,
                Entry::Empty | Entry::Leaf => return None,
            }
        }
        Some(HostPhys(table))
    }

    /// Gives each of these entries of the root table a table, so that copies of them stay true for ever.
    pub fn fill_root(slots: Range<usize>) -> Result<(), NoMemory> {
        let mut state = STATE.lock();
        for slot in Self::entries(Self::root().0).get(slots).ok_or(NoMemory)? {
            if P::decode(slot.load(Ordering::Relaxed), 0) == Entry::Empty {
                let table = Self::new_table(&mut state)?;
                slot.store(P::table(table), Ordering::Release);
            }
        }
        Ok(())
    }

    /// The entries of the root table.
    #[must_use]
    pub fn root_entries() -> &'static [AtomicU64; 512] {
        Self::entries(Self::root().0)
    }

    /// Maps a stack for a CPU from frames and gives its top. The page below stays unmapped.
    pub fn map_stack(cpu: u64, frames: Mfn) -> Result<u64, NoMemory> {
        let bottom = P::STACK_VA + cpu * STACK_STRIDE + PAGE_SIZE as u64;
        Self::map(bottom, frames.base(), STACK_SIZE, Access::Ram)?;
        Ok(bottom + STACK_SIZE)
    }
}
