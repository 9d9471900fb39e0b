//! The page tables that a PV guest starts with: how many there are, where each one is, and their entries.
//!
//! Two stretches of addresses are mapped: the bootstrap area, and outside of it, if the kernel wants that, the list of
//! machine frames. Each has its tables in a row of frames, those of the higher levels first; where both need the same
//! table, it is the area's. Tables are mapped read-only, all else writable. The hypervisor's slots of the root stay empty.

use core::ops::Range;

use xenolith_hal::{Gfn, Mfn, PAGE_SHIFT};

use super::frames::FrameMap;

/// Entries of a table.
pub const ENTRIES: usize = 512;
/// A table's entries.
pub type Table = [u64; ENTRIES];

const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
/// What guests may read and run. Kernels run beside their programs, in ring 3.
const READ_ONLY: u64 = PRESENT | USER | ACCESSED;
/// What they may write too, and tables in their upper tables.
const READ_WRITE: u64 = READ_ONLY | WRITABLE | DIRTY;
/// A leaf for the guest's kernel, which its programs do not see (bit 52, as page tables that were checked have it).
const KERNEL: u64 = 1 << 52;

/// A level of tables, by what an entry maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "page-table levels speak for themselves")]
pub enum Level {
    L1,
    L2,
    L3,
    L4,
}

impl Level {
    /// The levels with more than one table, from the root on.
    const BELOW_ROOT: [Self; 3] = [Self::L3, Self::L2, Self::L1];

    /// log2 of the bytes that an entry maps.
    const fn entry_shift(self) -> u32 {
        PAGE_SHIFT + 9 * self as u32
    }

    /// Which of all tables of the level maps an address. Only the 48 bits that count.
    const fn table(self, address: u64) -> u64 {
        (address & ((1 << 48) - 1)) >> (self.entry_shift() + 9)
    }

    /// Which entry of its table maps an address.
    const fn entry(self, address: u64) -> usize {
        (address >> self.entry_shift()) as usize % ENTRIES
    }
}

/// Tables of one level in a row of frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Run {
    /// The first table, as [`Level::table`] counts.
    first: u64,
    count: u64,
    frame: u64,
}

impl Run {
    fn frame_of(&self, table: u64) -> Option<Gfn> {
        let index = table.checked_sub(self.first)?;
        (index < self.count).then(|| Gfn(self.frame + index))
    }
}

/// The tables of a stretch of addresses that another stretch has not already.
fn runs(range: &Range<u64>, first_frame: u64, known: &[Run; 3]) -> ([Run; 3], u64) {
    let mut frame = first_frame;
    let runs = core::array::from_fn(|at| {
        if range.is_empty() {
            return Run::default();
        }
        let level = Level::BELOW_ROOT[at];
        let (mut first, mut last) = (level.table(range.start), level.table(range.end - 1));
        // The stretches are apart: they share a table at one end at most, or the one that they both are in.
        if known[at].frame_of(first).is_some() {
            first += 1;
        }
        if first <= last && known[at].frame_of(last).is_some() {
            last -= 1;
        }
        let count = (last + 1).saturating_sub(first);
        let run = Run {
            first,
            count,
            frame,
        };
        frame += count;
        run
    });
    (runs, frame - first_frame)
}

/// How many tables the bootstrap area needs, the root included.
#[must_use]
pub fn needed(area: &Range<u64>) -> u64 {
    runs(area, 0, &Default::default()).1 + 1
}

/// Where the tables are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TablePlan {
    /// The bootstrap area.
    area: Range<u64>,
    /// Frames of its tables, the root first.
    area_tables: Range<u64>,
    area_runs: [Run; 3],
    /// The list of machine frames, where that is outside; else empty.
    list: Range<u64>,
    /// The list's first frame.
    list_frame: Gfn,
    /// Frames of the list's tables.
    list_tables: Range<u64>,
    list_runs: [Run; 3],
}

/// Addresses whose frames follow each other, too.
#[derive(Clone, Debug)]
pub struct Stretch {
    /// Page-aligned addresses.
    pub addresses: Range<u64>,
    /// The frame at the first.
    pub frame: Gfn,
    /// The first of the frames for its tables.
    pub tables: Gfn,
}

impl TablePlan {
    /// Tables for the bootstrap area, whose frames begin with 0, and a list outside of it.
    #[must_use]
    pub fn new(area: Range<u64>, tables: Gfn, list: Option<Stretch>) -> Self {
        let (area_runs, below) = runs(&area, tables.0 + 1, &Default::default());
        let list = list.unwrap_or(Stretch {
            addresses: 0..0,
            frame: Gfn(0),
            tables: Gfn(0),
        });
        let (list_runs, count) = runs(&list.addresses, list.tables.0, &area_runs);
        Self {
            area,
            area_tables: tables.0..tables.0 + 1 + below,
            area_runs,
            list: list.addresses,
            list_frame: list.frame,
            list_tables: list.tables.0..list.tables.0 + count,
            list_runs,
        }
    }

    /// The root.
    #[must_use]
    pub fn root(&self) -> Gfn {
        Gfn(self.area_tables.start)
    }

    /// How many tables the bootstrap area has.
    #[must_use]
    pub fn area_tables(&self) -> u64 {
        self.area_tables.end - self.area_tables.start
    }

    /// How many tables the list has beside them.
    #[must_use]
    pub fn list_tables(&self) -> u64 {
        self.list_tables.end - self.list_tables.start
    }

    /// Every frame that is a table.
    pub fn tables(&self) -> impl Iterator<Item = Gfn> {
        let frames = self.area_tables.clone().chain(self.list_tables.clone());
        frames.map(Gfn)
    }

    /// The table of a level (not the root's) for an address.
    fn table(&self, level: Level, address: u64) -> Option<Gfn> {
        let at = Level::BELOW_ROOT.iter().position(|l| *l == level)?;
        let table = level.table(address);
        let area = self.area_runs[at].frame_of(table);
        area.or_else(|| self.list_runs[at].frame_of(table))
    }

    /// The frame mapped at an address.
    fn leaf(&self, address: u64) -> Option<Gfn> {
        if self.area.contains(&address) {
            return Some(Gfn((address - self.area.start) >> PAGE_SHIFT));
        }
        let at = address.checked_sub(self.list.start)?;
        (address < self.list.end).then(|| self.list_frame.plus(at >> PAGE_SHIFT))
    }

    /// Gives each table with its entries to `put`; stops where that fails or where a frame is not in the map.
    pub fn write(
        &self,
        frames: &FrameMap,
        mut put: impl FnMut(Mfn, &Table) -> Option<()>,
    ) -> Option<()> {
        let mut root = [0; ENTRIES];
        for (slot, word) in root.iter_mut().enumerate() {
            let address = sign_extended((slot as u64) << Level::L4.entry_shift());
            if let Some(table) = self.table(Level::L3, address) {
                *word = entry(frames.mfn(table)?, READ_WRITE);
            }
        }
        put(frames.mfn(self.root())?, &root)?;
        for (at, level) in Level::BELOW_ROOT.into_iter().enumerate() {
            for run in [self.area_runs[at], self.list_runs[at]] {
                for index in 0..run.count {
                    let start = (run.first + index) << (level.entry_shift() + 9);
                    let table = self.entries(level, sign_extended(start), frames)?;
                    put(frames.mfn(Gfn(run.frame + index))?, &table)?;
                }
            }
        }
        Some(())
    }

    /// The entries of the table whose first maps `start`; `None` where a frame is not in the map.
    fn entries(&self, level: Level, start: u64, frames: &FrameMap) -> Option<Table> {
        let mut table = [0; ENTRIES];
        for (index, slot) in table.iter_mut().enumerate() {
            let address = start + ((index as u64) << level.entry_shift());
            let (below, rights) = match level {
                Level::L1 => match self.leaf(address) {
                    Some(frame) if self.area_tables.contains(&frame.0) => {
                        (Some(frame), READ_ONLY | KERNEL)
                    }
                    frame => (frame, READ_WRITE | KERNEL),
                },
                Level::L2 => (self.table(Level::L1, address), READ_WRITE),
                Level::L3 | Level::L4 => (self.table(Level::L2, address), READ_WRITE),
            };
            if let Some(below) = below {
                *slot = entry(frames.mfn(below)?, rights);
            }
        }
        Some(table)
    }

    /// What a walk from the root finds at an address, with the tables as `read` tells them: frame, and whether it may be
    /// written. For tests, and for whoever wants to see an address of the guest before it runs.
    pub fn walk(
        root: Mfn,
        address: u64,
        mut read: impl FnMut(Mfn, usize) -> Option<u64>,
    ) -> Option<(Mfn, bool)> {
        let mut frame = root;
        let mut writable = true;
        for level in [Level::L4, Level::L3, Level::L2, Level::L1] {
            let entry = read(frame, level.entry(address))?;
            if entry & (PRESENT | USER) != PRESENT | USER {
                return None;
            }
            writable &= entry & WRITABLE != 0;
            frame = Mfn((entry & 0x000f_ffff_ffff_f000) >> PAGE_SHIFT);
        }
        Some((frame, writable))
    }
}

const fn entry(frame: Mfn, rights: u64) -> u64 {
    frame.0 << PAGE_SHIFT | rights
}

const fn sign_extended(address: u64) -> u64 {
    ((address << 16).cast_signed() >> 16).cast_unsigned()
}
