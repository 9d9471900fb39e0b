//! The machine-to-physical table: for each frame of RAM, which one it is in the numbering of the PV guest that has it
//! (`arch-x86/xen-x86_64.h`, `MACH2PHYS_VIRT_START`).
//!
//! Guests read it in their own address space, at the hypervisor's first address; the hypervisor writes it in the slot behind. It
//! is in blocks of 2 MiB, where there is RAM.

use core::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

use alloc::vec::Vec;
use spin::Once;
use xenolith_arch_common::Access;
use xenolith_core::{Hypervisor, memory::Place};
use xenolith_hal::{Gfn, MachphysMapping, Mfn, NoMemory, Order};

use crate::{
    X86_64,
    mm::{
        hyp::{Direct, Hyp},
        layout::{M2P_READ_VA, M2P_VA, ROOT_SLOTS},
        pte,
    },
};

/// Says that a frame is nobody's (`INVALID_M2P_ENTRY`).
const INVALID: u64 = u64::MAX;
/// A block of the table.
const ORDER: Order = 9;
const BLOCK: u64 = 2 << 20;
const FRAMES_IN_BLOCK: u64 = BLOCK / 8;

struct Table {
    /// The frames of each block; `None` where there is no RAM.
    blocks: Vec<Option<Mfn>>,
    /// The frame after the last of RAM.
    end: u64,
}

static TABLE: Once<Table> = Once::new();
static BUILDING: AtomicBool = AtomicBool::new(false);

/// Makes the table, before the first PV guest; after that nothing.
pub fn init(hv: &Hypervisor<X86_64>) -> Result<(), NoMemory> {
    if TABLE.get().is_some() || BUILDING.swap(true, Relaxed) {
        return Ok(());
    }
    let end = hv.memory.table().end().0;
    let count = end.div_ceil(FRAMES_IN_BLOCK);
    let mut blocks = Vec::new();
    blocks.try_reserve(count as usize).map_err(|_| NoMemory)?;
    blocks.resize(count as usize, None);
    for bank in hv.memory.table().banks() {
        let (first, last) = (bank.first.0, bank.end().0 - 1);
        for index in first / FRAMES_IN_BLOCK..=last / FRAMES_IN_BLOCK {
            if let Some(slot @ None) = blocks.get_mut(index as usize) {
                *slot = Some(block(hv, index)?);
            }
        }
    }
    // Every root of a guest gets these entries once: they never change again.
    Hyp::fill_root(ROOT_SLOTS)?;
    TABLE.call_once(|| Table { blocks, end });
    Ok(())
}

/// One block, filled and mapped both ways.
fn block(hv: &Hypervisor<X86_64>, index: u64) -> Result<Mfn, NoMemory> {
    let frames = hv.memory.allocate(ORDER, Place::ANY).ok_or(NoMemory)?;
    let at = M2P_VA + index * BLOCK;
    Hyp::map(at, frames.base(), BLOCK, Access::Ram)?;
    for word in (0..BLOCK).step_by(8) {
        // SAFETY: the block was just mapped there for this.
        unsafe { (*((at + word) as *const AtomicU64)).store(INVALID, Relaxed) }
    }
    show(hv, M2P_READ_VA + index * BLOCK, frames)?;
    Ok(frames)
}

/// Maps a block for guests to read. The tables above are for nothing else, so that each of them can say so.
fn show(hv: &Hypervisor<X86_64>, va: u64, frames: Mfn) -> Result<(), NoMemory> {
    let index = |shift: u32| (va >> shift & 511) as usize;
    let root = &Hyp::root_entries()[index(39)];
    let mut table = below(hv, root.load(Relaxed), |entry| root.store(entry, Release))?;
    let slot = index(30) * 8;
    table = below(hv, word(table, slot)?, |entry| {
        let _ = Direct::write(table, slot, &entry.to_le_bytes());
    })?;
    let leaf = frames.base().0 | pte::GUEST_BLOCK;
    Direct::write(table, index(21) * 8, &leaf.to_le_bytes()).map_err(|_| NoMemory)
}

fn word(table: Mfn, at: usize) -> Result<u64, NoMemory> {
    let mut word = [0; 8];
    Direct::read(table, at, &mut word).map_err(|_| NoMemory)?;
    Ok(u64::from_le_bytes(word))
}

/// The table that an entry leads to; a new one if it leads nowhere.
fn below(hv: &Hypervisor<X86_64>, entry: u64, set: impl FnOnce(u64)) -> Result<Mfn, NoMemory> {
    const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
    if entry & 1 != 0 {
        return Ok(Mfn((entry & ADDRESS) >> 12));
    }
    let table = hv.memory.allocate(0, Place::ANY).ok_or(NoMemory)?;
    Direct::zero(table, 0);
    set(table.base().0 | pte::GUEST_POINTER);
    Ok(table)
}

/// The word of a frame, where the table has one.
#[inline(always)]
fn place(mfn: Mfn) -> Option<&'static AtomicU64> {
    let table = TABLE.get()?;
    (*table.blocks.get((mfn.0 / FRAMES_IN_BLOCK) as usize)?)?;
    // SAFETY: the block with this word is mapped there for ever, and all accesses of the hypervisor are atomic.
    Some(unsafe { &*((M2P_VA + mfn.0 * 8) as *const AtomicU64) })
}

/// Notes which frame of its guest's numbering a machine frame is.
#[inline]
pub fn set(mfn: Mfn, pfn: Option<Gfn>) {
    if let Some(place) = place(mfn) {
        place.store(pfn.map_or(INVALID, |pfn| pfn.0), Relaxed);
    }
}

/// What was noted.
#[inline]
#[must_use]
pub fn get(mfn: Mfn) -> Option<Gfn> {
    let pfn = place(mfn)?.load(Acquire);
    (pfn != INVALID).then_some(Gfn(pfn))
}

/// The frame of a block.
#[must_use]
pub fn frame(index: u64) -> Option<Mfn> {
    *TABLE.get()?.blocks.get(usize::try_from(index).ok()?)?
}

/// Where guests see it.
#[must_use]
pub fn mapping() -> Option<MachphysMapping> {
    let table = TABLE.get()?;
    Some(MachphysMapping {
        v_start: M2P_READ_VA,
        v_end: M2P_READ_VA + (256 << 30),
        max_mfn: table.end.saturating_sub(1),
    })
}
