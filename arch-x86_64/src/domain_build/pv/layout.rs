//! Where everything goes in a PV guest's memory (`xen.h`, "Start-of-day memory layout").
//!
//! The bootstrap area is one stretch of addresses from the kernel's `VIRT_BASE` on, and the same stretch of the domain's
//! frames from 0 on: kernel, ramdisk, list of frames, start info, rings, page tables, stack, at least 512 KiB of nothing,
//! up to a multiple of 4 MiB. Behind it follow frames that are not in the area: the ramdisk and the list of frames with
//! its tables, where the kernel takes them so.

use core::{fmt, ops::Range};

use xenolith_core::boot::elf::pv::{PvKernel, is_guests};
use xenolith_hal::{Gfn, PAGE_SHIFT};

use super::tables::{self, Stretch, TablePlan};

const PAGE: u64 = 1 << PAGE_SHIFT;
const AREA_ALIGN: u64 = 4 << 20;
const PADDING: u64 = 512 << 10;
/// The size of an entry of the list of frames.
const LIST_ENTRY: u64 = 8;
/// More frames no machine has.
const MOST_FRAMES: u64 = 1 << 40;

/// What is to be placed.
#[derive(Clone, Copy, Debug)]
pub struct Request<'k> {
    /// The kernel.
    pub kernel: &'k PvKernel<'k>,
    /// Frames of the domain.
    pub frames: u64,
    /// Bytes of its ramdisk.
    pub ramdisk: Option<u64>,
    /// Whether it gets rings for store and console, as all but dom0 do.
    pub rings: bool,
}

/// A ramdisk's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ramdisk {
    /// Its first frame.
    pub frame: Gfn,
    /// Its address; `None` if it is not mapped.
    pub address: Option<u64>,
    /// Bytes.
    pub size: u64,
}

/// The place of the list of machine frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct List {
    /// Its first frame.
    pub frame: Gfn,
    /// Its address.
    pub address: u64,
    /// Its frames, those of its own tables not counted.
    pub frames: u64,
    /// Whether it is outside of the bootstrap area.
    pub outside: bool,
}

/// Rings of a domain that is not dom0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rings {
    /// The store's page.
    pub store: Gfn,
    /// The console's.
    pub console: Gfn,
}

/// A domain's memory at its start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Addresses of the bootstrap area.
    pub area: Range<u64>,
    /// Frames of the domain.
    pub frames: u64,
    /// Its ramdisk.
    pub ramdisk: Option<Ramdisk>,
    /// Its list of machine frames.
    pub list: List,
    /// The frame of its start info.
    pub start_info: Gfn,
    /// Its rings.
    pub rings: Option<Rings>,
    /// Its page tables.
    pub tables: TablePlan,
    /// The frame of its stack.
    pub stack: Gfn,
    /// Frames below this have a use; the others are only memory.
    pub used: u64,
}

/// Why a domain cannot be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayoutError {
    /// It has fewer frames than its start needs.
    TooSmall {
        /// Frames that it needs.
        needed: u64,
        /// Frames that it has.
        frames: u64,
    },
    /// Something would lie where a guest has no addresses, or over something else.
    Place(&'static str, u64, u64),
}

impl fmt::Display for LayoutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooSmall { needed, frames } => write!(
                f,
                "{} MiB of memory do not hold kernel, ramdisk and page tables, which need {} MiB: raise dom0_mem (or the domain's \"memory\")",
                frames >> 8,
                needed.div_ceil(256)
            ),
            Self::Place(what, start, end) => write!(
                f,
                "{what} would lie at {start:#x} to {end:#x}, where a PV guest has no room for it: link the kernel elsewhere, or give it less"
            ),
        }
    }
}

/// Takes pages one after another.
struct Cursor(u64);

impl Cursor {
    fn take(&mut self, bytes: u64) -> Option<Gfn> {
        let first = self.0;
        self.0 = first.checked_add(pages(bytes)?)?;
        Some(Gfn(first))
    }
}

fn pages(bytes: u64) -> Option<u64> {
    Some(bytes.checked_next_multiple_of(PAGE)? >> PAGE_SHIFT)
}

impl Layout {
    /// Places everything.
    pub fn new(request: &Request<'_>) -> Result<Self, LayoutError> {
        let Request { kernel, frames, .. } = *request;
        let base = kernel.virt_base;
        let too_long = |what| LayoutError::Place(what, base, u64::MAX);
        if frames > MOST_FRAMES {
            return Err(too_long("its list of frames"));
        }
        let address = |frame: Gfn| base + (frame.0 << PAGE_SHIFT);
        let list_bytes = frames * LIST_ENTRY;

        let mut cursor = Cursor(0);
        let mut take = |bytes, what| cursor.take(bytes).ok_or(too_long(what));
        take(kernel.end - base, "the kernel")?;
        let mut ramdisk = None;
        if let Some(size) = request.ramdisk.filter(|_| !kernel.mod_start_pfn) {
            let frame = take(size, "its ramdisk")?;
            let address = Some(address(frame));
            ramdisk = Some(Ramdisk {
                frame,
                address,
                size,
            });
        }
        let in_area = match kernel.init_p2m {
            None => Some(take(list_bytes, "its list of frames")?),
            Some(_) => None,
        };
        let start_info = take(PAGE, "its start info")?;
        let rings = match request.rings {
            true => Some(Rings {
                store: take(PAGE, "its rings")?,
                console: take(PAGE, "its rings")?,
            }),
            false => None,
        };
        let first_table = Gfn(cursor.0);
        let end = area_end(base, first_table).ok_or(too_long("the bootstrap area"))?;
        if !is_guests(base, end.area) {
            return Err(LayoutError::Place("the bootstrap area", base, end.area));
        }

        // Behind the area.
        let mut cursor = Cursor((end.area - base) >> PAGE_SHIFT);
        if let Some(size) = request.ramdisk.filter(|_| kernel.mod_start_pfn) {
            let frame = cursor.take(size).ok_or(too_long("its ramdisk"))?;
            ramdisk = Some(Ramdisk {
                frame,
                address: None,
                size,
            });
        }
        let list_frames = pages(list_bytes).ok_or(too_long("its list of frames"))?;
        let (list, stretch) = match (in_area, kernel.init_p2m) {
            (None, Some(at)) => outside(&mut cursor, at, list_frames, &(base..end.area))?,
            (frame, _) => {
                let frame = frame.unwrap_or_default();
                let list = List {
                    frame,
                    address: address(frame),
                    frames: list_frames,
                    outside: false,
                };
                (list, None)
            }
        };
        let tables = TablePlan::new(base..end.area, first_table, stretch);
        let used = cursor.0 + tables.list_tables();
        if used > frames {
            let needed = used;
            return Err(LayoutError::TooSmall { needed, frames });
        }
        Ok(Self {
            area: base..end.area,
            frames,
            ramdisk,
            list,
            start_info,
            rings,
            tables,
            stack: end.stack,
            used,
        })
    }

    /// The address of a frame in the bootstrap area.
    #[must_use]
    pub fn address(&self, frame: Gfn) -> u64 {
        self.area.start + (frame.0 << PAGE_SHIFT)
    }

    /// The frame behind an address of the bootstrap area, and the offset in it.
    #[must_use]
    pub fn frame(&self, address: u64) -> Option<(Gfn, usize)> {
        let inside = self.area.contains(&address);
        let at = address.wrapping_sub(self.area.start);
        inside.then_some((Gfn(at >> PAGE_SHIFT), (at % PAGE) as usize))
    }
}

/// The end of the bootstrap area.
struct End {
    stack: Gfn,
    area: u64,
}

/// The area ends behind its tables and its stack, and the more it has of addresses the more tables it needs.
fn area_end(base: u64, first_table: Gfn) -> Option<End> {
    let mut count = 1;
    loop {
        let stack = Gfn(first_table.0.checked_add(count)?);
        let bytes = stack.0.checked_add(1)?.checked_mul(PAGE)?;
        let used = base.checked_add(bytes)?;
        let area = used.checked_add(PADDING)?;
        let area = area.checked_next_multiple_of(AREA_ALIGN)?;
        let needed = tables::needed(&(base..area));
        if needed <= count {
            return Some(End { stack, area });
        }
        count = needed;
    }
}

/// A list of frames outside of the area.
fn outside(
    cursor: &mut Cursor,
    at: u64,
    frames: u64,
    area: &Range<u64>,
) -> Result<(List, Option<Stretch>), LayoutError> {
    let end = at.checked_add(frames << PAGE_SHIFT);
    let error = LayoutError::Place("its list of frames", at, end.unwrap_or(u64::MAX));
    let end = end.ok_or(error)?;
    let apart = end <= area.start || area.end <= at;
    if !is_guests(at, end) || !apart {
        return Err(error);
    }
    let frame = cursor.take(frames << PAGE_SHIFT).ok_or(error)?;
    let list = List {
        frame,
        address: at,
        frames,
        outside: true,
    };
    let stretch = Stretch {
        addresses: at..end,
        frame,
        tables: Gfn(cursor.0),
    };
    Ok((list, Some(stretch)))
}
