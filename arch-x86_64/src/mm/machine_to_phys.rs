//! The table in which PV guests look up what a machine frame is called by its owner (`arch-x86/xen-x86_64.h`,
//! `MACH2PHYS_VIRT_START`): eight bytes for each frame, all ones where a frame is nobody's.
//!
//! It is made with the first PV domain, in pieces of 2 MiB, one for each GiB of machine addresses with RAM in it; where there
//! is none, one piece of ones stands for all. Guests see it read-only in the root's slot 256; the hypervisor writes it in
//! slot 257, where only pieces with RAM are.
//!
//! 32-bit guests have a table of four bytes for each frame, at a place of its own ([`COMPAT_MACHINE_TO_PHYS_VA`]). There are no such
//! guests, so no frame has a number in it: the piece of ones stands there for every 2 GiB of RAM, and nobody keeps it up to date. Who lets
//! 32-bit guests run gives it pieces of its own, filled from the other table, and has [`set`] write both.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use alloc::vec::Vec;
use spin::Once;
use xenolith_abi::{
    memory::MachphysMapping,
    x86_64::{MACH2PHYS_VIRT_END, MACH2PHYS_VIRT_START},
};
use xenolith_arch_common::Access;
use xenolith_core::{Hypervisor, memory::Place};
use xenolith_hal::{Gfn, Mfn, NoMemory, Order, PAGE_SHIFT, PAGE_SIZE};

use super::{
    hyp::{Direct, Hyp},
    layout::{
        COMPAT_MACHINE_TO_PHYS_SIZE, COMPAT_MACHINE_TO_PHYS_VA, DIRECT_LIMIT, MACHINE_TO_PHYS_VA,
        ROOT_SLOTS,
    },
    pte,
};
use crate::X86_64;

/// log2 of the frames of a piece.
const PIECE_ORDER: Order = 9;
const PIECE: u64 = (PAGE_SIZE as u64) << PIECE_ORDER;
/// log2 of the frames that a piece tells of: 1 GiB.
const COVERED: u32 = 18;
const PIECES: usize = (DIRECT_LIMIT >> (PAGE_SHIFT + COVERED)) as usize;
/// log2 of the frames that a piece of the table for 32-bit guests tells of: 2 GiB.
const COMPAT_COVERED: u32 = COVERED + 1;
const TABLE: usize = 512;
/// Where it is in roots.
pub const SLOT: usize = (MACH2PHYS_VIRT_START >> 39) as usize % TABLE;

struct Made {
    /// Each piece's first frame.
    pieces: Vec<Mfn>,
    /// Frames that the table tells of.
    frames: u64,
}

static MADE: Once<Result<Made, NoMemory>> = Once::new();
/// Pieces that are there to be written, a bit each.
static WRITABLE: [AtomicU64; PIECES.div_ceil(64)] =
    [const { AtomicU64::new(0) }; PIECES.div_ceil(64)];

/// Makes the table, unless it is there. Before the first PV guest has page tables, which name the hypervisor's part of the
/// root.
pub fn ensure(hv: &Hypervisor<X86_64>) -> Result<(), NoMemory> {
    match MADE.call_once(|| make(hv)) {
        Ok(_) => Ok(()),
        Err(error) => Err(*error),
    }
}

fn block(hv: &Hypervisor<X86_64>, fill: u8) -> Result<Mfn, NoMemory> {
    let first = hv
        .memory
        .allocate(PIECE_ORDER, Place::ANY)
        .ok_or(NoMemory)?;
    for frame in 0..1 << PIECE_ORDER {
        Direct::write(first.plus(frame), 0, &[fill; PAGE_SIZE]).map_err(|_| NoMemory)?;
    }
    Ok(first)
}

fn table(hv: &Hypervisor<X86_64>) -> Result<Mfn, NoMemory> {
    let table = hv.memory.allocate(0, Place::ANY).ok_or(NoMemory)?;
    Direct::zero(table, 0);
    Ok(table)
}

fn make(hv: &Hypervisor<X86_64>) -> Result<Made, NoMemory> {
    let frames = hv.memory.table().end().0;
    let count = (frames.div_ceil(1 << COVERED) as usize).min(PIECES);
    let nothing = block(hv, !0)?;
    let mut pieces = Vec::new();
    pieces.try_reserve_exact(count).map_err(|_| NoMemory)?;
    for index in 0..count as u64 {
        let covered = index << COVERED..(index + 1) << COVERED;
        let banks = hv.memory.table().banks();
        let any = banks
            .iter()
            .any(|b| b.first.0 < covered.end && covered.start < b.end().0);
        if !any {
            pieces.push(nothing);
            continue;
        }
        let piece = block(hv, !0)?;
        let at = MACHINE_TO_PHYS_VA + index * PIECE;
        Hyp::map(at, piece.base(), PIECE, Access::Ram)?;
        WRITABLE[index as usize / 64].fetch_or(1 << (index % 64), Relaxed);
        pieces.push(piece);
    }
    let compat = frames.div_ceil(1 << COMPAT_COVERED) * PIECE;
    for at in (0..compat.min(COMPAT_MACHINE_TO_PHYS_SIZE)).step_by(PIECE as usize) {
        let at = COMPAT_MACHINE_TO_PHYS_VA + at;
        Hyp::map(at, nothing.base(), PIECE, Access::RamReadOnly)?;
    }
    show(hv, &pieces)?;
    // Every root of a guest gets copies of these entries: they never change again.
    Hyp::fill_root(ROOT_SLOTS)?;
    Ok(Made { pieces, frames })
}

/// Lets guests see the pieces: a table of the third level in the hypervisor's root, and below it as many as it takes.
fn show(hv: &Hypervisor<X86_64>, pieces: &[Mfn]) -> Result<(), NoMemory> {
    let put = |table: Mfn, index: usize, entry: u64| {
        Direct::write(table, index * 8, &entry.to_le_bytes()).map_err(|_| NoMemory)
    };
    let third = table(hv)?;
    for (index, pieces) in pieces.chunks(TABLE).enumerate() {
        let second = table(hv)?;
        for (index, piece) in pieces.iter().enumerate() {
            put(second, index, piece.base().0 | pte::GUEST_READ_ONLY_BLOCK)?;
        }
        put(third, index, second.base().0 | pte::GUEST_POINTER)?;
    }
    Hyp::root_entries()[SLOT].store(third.base().0 | pte::GUEST_POINTER, Relaxed);
    Ok(())
}

/// The entry of a frame, if the table tells of it and it can be written.
#[inline(always)]
fn entry(mfn: Mfn) -> Option<&'static AtomicU64> {
    let piece = (mfn.0 >> COVERED) as usize;
    if WRITABLE.get(piece / 64)?.load(Relaxed) >> (piece % 64) & 1 == 0 {
        return None;
    }
    // SAFETY: the piece is mapped, for ever, at the address that belongs to its number; guests only read it.
    Some(unsafe { &*((MACHINE_TO_PHYS_VA + mfn.0 * 8) as *const AtomicU64) })
}

/// Notes what its owner calls a frame.
#[inline]
pub fn set(mfn: Mfn, pfn: Option<Gfn>) {
    if let Some(entry) = entry(mfn) {
        entry.store(pfn.map_or(u64::MAX, |pfn| pfn.0), Relaxed);
    }
}

/// What [`set`] noted.
#[inline]
pub fn get(mfn: Mfn) -> Option<Gfn> {
    let pfn = entry(mfn)?.load(Relaxed);
    (pfn != u64::MAX).then_some(Gfn(pfn))
}

fn made() -> Option<&'static Made> {
    MADE.get()?.as_ref().ok()
}

/// Where guests see it.
pub fn mapping() -> Option<MachphysMapping> {
    Some(MachphysMapping {
        v_start: MACH2PHYS_VIRT_START,
        v_end: MACH2PHYS_VIRT_END,
        max_mfn: made()?.frames.saturating_sub(1),
    })
}

/// Whether a frame is part of the table.
pub fn has(mfn: Mfn) -> bool {
    made().is_some_and(|made| {
        let mut pieces = made.pieces.iter();
        pieces.any(|first| mfn.0 >> PIECE_ORDER == first.0 >> PIECE_ORDER)
    })
}

/// The first frame of a piece.
pub fn frame(index: u64) -> Option<Mfn> {
    made()?.pieces.get(usize::try_from(index).ok()?).copied()
}
