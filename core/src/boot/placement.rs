//! Where a domain's memory, kernel, ramdisk and device tree go. A plan is data: the caller allocates and copies.
//!
//! dom0 is mapped 1:1, so its banks are machine addresses. Starting it should be cheap: a kernel that already lies where
//! it may run, and a ramdisk anywhere near, are used in place; the RAM below them becomes dom0's and nothing is copied.
//! Placement rules are those of Linux's arm64 booting document, which the other formats do not contradict.

use alloc::vec::Vec;
use core::fmt;

use super::{
    cmdline::Dom0Memory,
    image::{IMAGE_ALIGN, Kernel, Packing},
    range::{PhysRange, RangeSet, align_down, align_up},
};

/// Banks start at multiples of this, so that they are mapped in large pages.
const BANK_ALIGN: u64 = 2 << 20;
/// A bank that is not the only one is not smaller than this.
const MIN_BANK: u64 = 2 << 20;
/// More banks than this are not given.
const MAX_BANKS: usize = 16;
/// The window, aligned to its size, that must hold kernel and ramdisk is 32 GiB in Linux.
const RAMDISK_WINDOW: u64 = 32 << 30;
/// The bank with the kernel should have room for what Linux allocates early.
const FIRST_BANK: u64 = 128 << 20;
const PAGE: u64 = 4096;
const BELOW_4G: u64 = 1 << 32;

/// dom0's memory when neither the command line nor other domains say: all that is free but the larger of these two, a
/// sixteenth of it and 64 MiB, which stay for domains made later.
const DEFAULT_RESERVE_SHIFT: u32 = 4;
const DEFAULT_RESERVE: u64 = 64 << 20;
/// dom0's memory when other domains are described, as Xen chooses it always.
const DEFAULT_BESIDE_DOMAINS: u64 = 512 << 20;

/// A piece of guest-physical memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bank {
    /// Where the guest sees it.
    pub guest: PhysRange,
    /// Whether the machine address is the same; else any frames may back it.
    pub direct: bool,
}

/// How something gets to its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// It lies there already.
    InPlace,
    /// Copied from this range of machine memory.
    Copy(PhysRange),
    /// Unpacked from this range of machine memory.
    Unpack(PhysRange),
}

/// Something in a domain's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Guest-physical place; for a kernel its whole memory, not only the file.
    pub at: PhysRange,
    /// How it gets there.
    pub source: Source,
}

/// A domain's memory at its start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DomainPlan {
    /// Its memory, ascending.
    pub banks: Vec<Bank>,
    /// Its kernel.
    pub kernel: Placed,
    /// Its ramdisk.
    pub ramdisk: Option<Placed>,
    /// Room for its device tree.
    pub device_tree: PhysRange,
    /// Where its first vCPU starts.
    pub entry: u64,
}

impl DomainPlan {
    /// Bytes of memory.
    #[must_use]
    pub fn memory(&self) -> u64 {
        self.banks
            .iter()
            .fold(0, |sum, bank| sum.saturating_add(bank.guest.size()))
    }

    /// Whether some of its memory is at these addresses.
    #[must_use]
    pub fn owns(&self, range: &PhysRange) -> bool {
        self.banks.iter().any(|bank| bank.guest.overlaps(range))
    }
}

/// Why a domain cannot be placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlacementError {
    /// More memory is asked for than is free.
    TooLittleMemory {
        /// Bytes asked for.
        asked: u64,
        /// Bytes free.
        free: u64,
    },
    /// The domain's memory does not hold what must go in.
    DomainTooSmall {
        /// Bytes that it has.
        memory: u64,
        /// Bytes that kernel, ramdisk and device tree need, alignment included.
        needed: u64,
    },
    /// There would be enough memory, but not in one piece.
    Fragmented {
        /// Bytes that kernel, ramdisk and device tree need together.
        needed: u64,
    },
}

const fn mib(bytes: u64) -> u64 {
    bytes >> 20
}

impl fmt::Display for PlacementError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLittleMemory { asked, free } => write!(
                f,
                "{} MiB of memory asked for, {} MiB free: lower dom0_mem (or the domain's \"memory\"), or give the machine more RAM",
                mib(*asked),
                mib(*free)
            ),
            Self::DomainTooSmall { memory, needed } => write!(
                f,
                "{} MiB of memory do not hold kernel, ramdisk and device tree, which need {} MiB: raise dom0_mem (or the domain's \"memory\")",
                mib(*memory),
                mib(*needed) + 1
            ),
            Self::Fragmented { needed } => write!(
                f,
                "no free piece of RAM holds the {} MiB of kernel, ramdisk and device tree: load the modules closer to one end of RAM",
                mib(*needed) + 1
            ),
        }
    }
}

/// What is to be placed.
#[derive(Clone, Copy, Debug)]
pub struct Load<'k> {
    /// The kernel.
    pub kernel: &'k Kernel<'k>,
    /// The module that the kernel came in.
    pub kernel_at: PhysRange,
    /// The module that the ramdisk came in.
    pub ramdisk_at: Option<PhysRange>,
    /// Most bytes that the device tree may have; at most 2 MiB.
    pub device_tree_size: u64,
}

impl Load<'_> {
    fn kernel_size(&self) -> u64 {
        align_up(self.kernel.memory_size(), PAGE).unwrap_or(u64::MAX)
    }

    fn ramdisk_size(&self) -> u64 {
        self.ramdisk_at.map_or(0, |r| r.size())
    }

    fn tree_size(&self) -> u64 {
        align_up(self.device_tree_size.max(1), PAGE).unwrap_or(u64::MAX)
    }

    /// Bytes that surely suffice in one bank.
    fn needed(&self) -> u64 {
        [
            self.kernel_size(),
            self.kernel.offset(),
            self.ramdisk_size(),
            self.tree_size(),
            PAGE,
        ]
        .into_iter()
        .fold(0, u64::saturating_add)
    }

    fn kernel_source(&self) -> Source {
        match self.kernel.packing {
            Packing::Plain => Source::Copy(self.kernel_at),
            Packing::Gzip => Source::Unpack(self.kernel_at),
        }
    }

    /// The memory that the kernel would take if it ran where it lies.
    fn kernel_in_place(&self) -> Option<PhysRange> {
        let start = self.kernel_at.start();
        let fits =
            self.kernel.packing == Packing::Plain && start % IMAGE_ALIGN == self.kernel.offset();
        fits.then(|| PhysRange::new(start, self.kernel_size()))?
    }
}

/// The bytes that dom0 gets when `free` are there: as the command line says, else all but a reserve, else (when other
/// domains need `others` bytes) 512 MiB or what they leave.
#[must_use]
pub fn dom0_memory(options: &Dom0Memory, free: u64, others: u64) -> u64 {
    if let Some(asked) = options.asked(free) {
        return asked;
    }
    let default = if others == 0 {
        free.saturating_sub(DEFAULT_RESERVE.max(free >> DEFAULT_RESERVE_SHIFT))
    } else {
        DEFAULT_BESIDE_DOMAINS.min(free.saturating_sub(others))
    };
    align_down(default, BANK_ALIGN)
}

/// Plans dom0, 1:1.
///
/// `free` is the RAM that may become dom0's; `others` is what the other domains will need of it. Of a module in `load` it holds
/// all frames if the module may be used where it lies, which it may not if anything else lies in them. Such a module's frames
/// are in the plan's banks where it is used in place, else in none: then they are the caller's to free after copying.
pub fn plan_dom0(
    free: &RangeSet,
    options: &Dom0Memory,
    others: u64,
    load: &Load<'_>,
) -> Result<DomainPlan, PlacementError> {
    let mut last = PlacementError::Fragmented {
        needed: load.needed(),
    };
    let kernel = load.kernel_in_place();
    let ramdisk = load.ramdisk_at;
    for (kernel, ramdisk) in [
        (kernel, ramdisk),
        (kernel, None),
        (None, ramdisk),
        (None, None),
    ] {
        match try_dom0(free, options, others, load, kernel, ramdisk) {
            Ok(plan) => return Ok(plan),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Plans dom0 with the parts that are given at their place.
fn try_dom0(
    free: &RangeSet,
    options: &Dom0Memory,
    others: u64,
    load: &Load<'_>,
    kernel: Option<PhysRange>,
    ramdisk: Option<PhysRange>,
) -> Result<DomainPlan, PlacementError> {
    let fragmented = PlacementError::Fragmented {
        needed: load.needed(),
    };
    // The kernel clears the memory behind its file: a ramdisk there would be lost.
    if kernel.zip(ramdisk).is_some_and(|(k, r)| k.overlaps(&r)) {
        return Err(fragmented);
    }
    let mut usable = free.clone();
    let modules = [
        (Some(load.kernel_at), kernel.is_some()),
        (load.ramdisk_at, ramdisk.is_some()),
    ];
    for (module, in_place) in modules {
        let frames = module.unwrap_or_default().page_outer().ok_or(fragmented)?;
        if !in_place {
            usable.remove(frames);
        } else if !usable.contains(&frames) {
            return Err(fragmented);
        }
    }
    let candidates: Vec<PhysRange> = usable
        .iter()
        .map(|r| PhysRange::between(align_up(r.start(), BANK_ALIGN).unwrap_or(r.end()), r.end()))
        .filter(|r| r.size() >= MIN_BANK)
        .collect();
    let total = candidates
        .iter()
        .fold(0u64, |sum, r| sum.saturating_add(r.size()));
    let asked = align_up(dom0_memory(options, total, others), PAGE).unwrap_or(u64::MAX);
    if asked > total {
        return Err(PlacementError::TooLittleMemory { asked, free: total });
    }
    if asked < load.needed() {
        return Err(PlacementError::DomainTooSmall {
            memory: asked,
            needed: load.needed(),
        });
    }
    let fixed: Vec<PhysRange> = [kernel, ramdisk].into_iter().flatten().collect();
    let banks = choose_banks(candidates, asked, &fixed, load).ok_or(fragmented)?;
    place(banks, load, kernel, ramdisk, fragmented)
}

/// Picks `asked` bytes from the candidates so that every `fixed` range is covered.
fn choose_banks(
    mut candidates: Vec<PhysRange>,
    asked: u64,
    fixed: &[PhysRange],
    load: &Load<'_>,
) -> Option<RangeSet> {
    let hull = |candidate: &PhysRange| {
        let inside = fixed.iter().filter(|f| candidate.contains(f));
        inside.fold(None, |hull: Option<PhysRange>, f| {
            let (start, end) = hull.map_or((f.start(), f.end()), |h| {
                (h.start().min(f.start()), h.end().max(f.end()))
            });
            Some(PhysRange::between(start, end))
        })
    };
    let room = load.needed().max(FIRST_BANK.min(asked));
    // What must be covered comes first; then memory that 32-bit devices reach, if there is enough to start in; then
    // the largest.
    candidates.sort_by_key(|c| {
        (
            hull(c).is_none(),
            c.start() >= BELOW_4G || c.size() < room,
            core::cmp::Reverse(c.size()),
        )
    });
    let mut left = asked;
    let mut banks = RangeSet::new();
    let mut covered = 0;
    for (index, candidate) in candidates.iter().enumerate() {
        if left == 0 || index >= MAX_BANKS {
            break;
        }
        let hull = hull(candidate);
        // A later candidate that holds something fixed needs its share.
        let promised = candidates
            .iter()
            .skip(index + 1)
            .filter_map(hull_size(fixed))
            .fold(0u64, u64::saturating_add);
        let size = candidate.size().min(left.saturating_sub(promised));
        let start = match hull {
            Some(hull) if hull.end() > candidate.start().saturating_add(size) => {
                align_up(hull.end().checked_sub(size)?, BANK_ALIGN)?
            }
            _ => candidate.start(),
        };
        let bank = PhysRange::new(start, size)?.intersection(candidate);
        if bank.is_empty() {
            continue;
        }
        covered += fixed.iter().filter(|f| bank.contains(f)).count();
        left -= bank.size();
        banks.insert(bank);
    }
    // Alignment may have cut a window short: grow it to the end of its candidate.
    for candidate in &candidates {
        let end = banks
            .iter()
            .filter(|b| candidate.contains(b))
            .map(|b| b.end())
            .max();
        if let Some(end) = end.filter(|_| left > 0) {
            let more = left.min(candidate.end() - end);
            banks.insert(PhysRange::new(end, more)?);
            left -= more;
        }
    }
    (left == 0 && covered == fixed.len()).then_some(banks)
}

/// How much a candidate must give so that what is fixed in it is covered.
fn hull_size(fixed: &[PhysRange]) -> impl Fn(&PhysRange) -> Option<u64> + '_ {
    move |candidate| {
        let inside = || fixed.iter().filter(|f| candidate.contains(f));
        let start = inside().map(|f| align_down(f.start(), BANK_ALIGN)).min()?;
        let end = inside().map(PhysRange::end).max()?;
        Some(end - start)
    }
}

/// Places kernel, ramdisk and device tree in the banks, except what has its place.
fn place(
    banks: RangeSet,
    load: &Load<'_>,
    kernel: Option<PhysRange>,
    ramdisk: Option<PhysRange>,
    fragmented: PlacementError,
) -> Result<DomainPlan, PlacementError> {
    let mut rest = banks.clone();
    for fixed in [kernel, ramdisk].into_iter().flatten() {
        rest.remove(fixed.page_outer().ok_or(fragmented)?);
    }
    let kernel = match kernel {
        Some(at) => Placed {
            at,
            source: Source::InPlace,
        },
        None => {
            let offset = load.kernel.offset();
            let size = load.kernel_size().saturating_add(offset);
            let space = rest.lowest_fit(size, IMAGE_ALIGN).ok_or(fragmented)?;
            Placed {
                at: PhysRange::between(space.start().saturating_add(offset), space.end()),
                source: load.kernel_source(),
            }
        }
    };
    rest.remove(kernel.at);
    // Only where kernel and ramdisk can be in one window.
    let base = align_down(kernel.at.start(), RAMDISK_WINDOW);
    let window = PhysRange::between(base, base.saturating_add(RAMDISK_WINDOW));
    let near: RangeSet = rest.iter().map(|r| r.intersection(&window)).collect();
    let ramdisk = match (ramdisk, load.ramdisk_at) {
        (_, None) => None,
        (Some(at), _) if !window.contains(&at) => return Err(fragmented),
        (Some(at), _) => Some(Placed {
            at,
            source: Source::InPlace,
        }),
        (None, Some(from)) => {
            let size = align_up(from.size(), PAGE).ok_or(fragmented)?;
            let space = near.highest_fit(size, PAGE).ok_or(fragmented)?;
            rest.remove(space);
            Some(Placed {
                at: PhysRange::between(space.start(), space.start().saturating_add(from.size())),
                source: Source::Copy(from),
            })
        }
    };
    // Near the kernel if possible: there the kernel surely maps it.
    let bank = banks.enclosing(&kernel.at).unwrap_or_default();
    let same: RangeSet = rest.iter().map(|r| r.intersection(&bank)).collect();
    let device_tree = tree_place(&same, load.tree_size())
        .or_else(|| tree_place(&rest, load.tree_size()))
        .ok_or(fragmented)?;
    Ok(DomainPlan {
        entry: kernel.at.start(),
        banks: banks
            .iter()
            .map(|guest| Bank {
                guest,
                direct: true,
            })
            .collect(),
        kernel,
        ramdisk,
        device_tree,
    })
}

/// A place for the device tree, not across a multiple of 2 MiB: kernels map it in blocks of that size.
fn tree_place(rest: &RangeSet, size: u64) -> Option<PhysRange> {
    let block = IMAGE_ALIGN;
    if size > block {
        return None;
    }
    rest.iter().rev().find_map(|range| {
        let high = align_down(range.end().checked_sub(size)?, PAGE);
        // Either it fits below the end, or below the last multiple of 2 MiB.
        let lower = align_down(range.end().saturating_sub(1), block).checked_sub(size);
        [Some(high), lower].into_iter().flatten().find_map(|start| {
            let place = PhysRange::new(start, size)?;
            let one_block = align_down(start, block) == align_down(place.end() - 1, block);
            (one_block && range.contains(&place)).then_some(place)
        })
    })
}

/// A domain's memory as guests of an architecture see it: banks from the lowest, each with a largest size.
#[derive(Clone, Copy, Debug)]
pub struct GuestLayout<'l> {
    /// Where banks may be.
    pub banks: &'l [PhysRange],
}

/// Plans a domain that is not mapped 1:1: `memory` bytes in the banks of `layout`, any frames below them.
pub fn plan_domu(
    layout: GuestLayout<'_>,
    memory: u64,
    free: u64,
    load: &Load<'_>,
) -> Result<DomainPlan, PlacementError> {
    let memory = align_up(memory, PAGE).unwrap_or(u64::MAX);
    let possible = layout
        .banks
        .iter()
        .fold(0u64, |sum, b| sum.saturating_add(b.size()));
    if memory > free.min(possible) {
        return Err(PlacementError::TooLittleMemory {
            asked: memory,
            free: free.min(possible),
        });
    }
    let too_small = PlacementError::DomainTooSmall {
        memory,
        needed: load.needed(),
    };
    let mut banks = RangeSet::new();
    let mut left = memory;
    for bank in layout.banks {
        let size = bank.size().min(left);
        banks.insert(PhysRange::between(
            bank.start(),
            bank.start().saturating_add(size),
        ));
        left -= size;
    }
    let mut plan = place(banks, load, None, None, too_small)?;
    for bank in &mut plan.banks {
        bank.direct = false;
    }
    Ok(plan)
}
