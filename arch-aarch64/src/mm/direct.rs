//! The direct map: RAM at a fixed distance from its physical address, and what counts as RAM.
//!
//! Frames handed to guests are reached only through the functions here, by copy and by atomic words; no reference to
//! them is ever made.

use core::{
    arch::asm,
    num::NonZeroU64,
    sync::atomic::{
        AtomicU8, AtomicU16, AtomicU32, AtomicU64,
        Ordering::{Relaxed, SeqCst},
    },
};

use xenolith_hal::{AtomicOp, CacheOp, Fault, HostPhys, Mfn, Order, PAGE_SHIFT, PAGE_SIZE};

use super::layout::{DIRECT_LIMIT, DIRECT_VA};

const MAX_BANKS: usize = 16;

/// Ranges of frames in the direct map, first frame and count, the largest first; filled once at boot, before other CPUs
/// run.
static BANKS: [(AtomicU64, AtomicU64); MAX_BANKS] =
    [const { (AtomicU64::new(0), AtomicU64::new(0)) }; MAX_BANKS];

/// Records that frames are mapped. False when there are too many pieces of RAM; the rest is then not used.
pub fn add_bank(start: Mfn, end: Mfn) -> bool {
    let mut new = (start.0, end.0.saturating_sub(start.0));
    for (first, count) in &BANKS {
        if new.1 > count.load(Relaxed) {
            new = (first.swap(new.0, Relaxed), count.swap(new.1, Relaxed));
        }
        if new.1 == 0 {
            return true;
        }
    }
    false
}

/// Whether the frame is RAM in the direct map. Most frames lie in the two largest banks, so these are looked at in place.
#[inline(always)]
pub fn is_ram(mfn: Mfn) -> bool {
    let [first, second, rest @ ..] = &BANKS;
    holds(first, mfn) || holds(second, mfn) || is_in_small_bank(rest, mfn)
}

#[inline(always)]
fn holds((first, count): &(AtomicU64, AtomicU64), mfn: Mfn) -> bool {
    mfn.0.wrapping_sub(first.load(Relaxed)) < count.load(Relaxed)
}

#[cold]
#[inline(never)]
fn is_in_small_bank(banks: &[(AtomicU64, AtomicU64)], mfn: Mfn) -> bool {
    banks.iter().any(|bank| holds(bank, mfn))
}

/// The virtual address of a physical one in the direct map; it may be used only where [`is_ram`] says so.
#[inline]
pub const fn address(pa: HostPhys) -> u64 {
    DIRECT_VA + (pa.0 & (DIRECT_LIMIT - 1))
}

/// A frame of RAM in the direct map: its virtual address. Only [`frame`] makes one, of a frame that is RAM.
#[derive(Clone, Copy)]
pub struct RamFrame(NonZeroU64);

/// The frame, if it is RAM.
#[inline]
pub fn frame(mfn: Mfn) -> Option<RamFrame> {
    if !is_ram(mfn) {
        return None;
    }
    NonZeroU64::new(address(mfn.base())).map(RamFrame)
}

#[inline(always)]
fn checked(mfn: Mfn, offset: usize, len: usize) -> Result<*mut u8, Fault> {
    let end = offset.checked_add(len).ok_or(Fault)?;
    if end > PAGE_SIZE || !is_ram(mfn) {
        return Err(Fault);
    }
    Ok((address(mfn.base()) + offset as u64) as *mut u8)
}

/// Reads a word at any address of the direct map: normal memory, where EL2 lets accesses be unaligned.
macro_rules! load {
    ($word:ty, $instruction:literal, $from:expr) => {{
        let word: $word;
        asm!($instruction, out(reg) word, in(reg) $from, options(readonly, nostack, preserves_flags));
        word
    }};
}

/// The counterpart of `load`.
macro_rules! store {
    ($instruction:literal, $to:expr, $word:expr) => {
        asm!($instruction, in(reg) $word, in(reg) $to, options(nostack, preserves_flags))
    };
}

/// Copies `len` bytes between ranges that do not overlap, whatever their alignment: the target's strict alignment is for
/// code that runs before the MMU is on, and costs an access per byte.
///
/// # Safety
/// Both ranges are mapped as normal memory. No Rust reference covers the side that a guest can reach, and only the caller
/// uses the other one.
#[inline(never)]
unsafe fn copy_any(to: *mut u8, from: *const u8, len: usize) {
    // SAFETY: reads and writes the two ranges, byte 0 to `len`, and nothing else.
    unsafe {
        asm!(
            "subs {n}, {n}, #64",
            "b.lo 3f",
            "2: ldp {a}, {b}, [{from}]",
            "ldp {c}, {d}, [{from}, #16]",
            "stp {a}, {b}, [{to}]",
            "stp {c}, {d}, [{to}, #16]",
            "ldp {a}, {b}, [{from}, #32]",
            "ldp {c}, {d}, [{from}, #48]",
            "stp {a}, {b}, [{to}, #32]",
            "stp {c}, {d}, [{to}, #48]",
            "add {from}, {from}, #64",
            "add {to}, {to}, #64",
            "subs {n}, {n}, #64",
            "b.hs 2b",
            // `n` is what is left less 64: its low six bits are what is left.
            "3: tst {n}, #63",
            "b.eq 9f",
            "tbz {n}, #5, 4f",
            "ldp {a}, {b}, [{from}], #16",
            "ldp {c}, {d}, [{from}], #16",
            "stp {a}, {b}, [{to}], #16",
            "stp {c}, {d}, [{to}], #16",
            "4: tbz {n}, #4, 5f",
            "ldp {a}, {b}, [{from}], #16",
            "stp {a}, {b}, [{to}], #16",
            "5: tbz {n}, #3, 6f",
            "ldr {a}, [{from}], #8",
            "str {a}, [{to}], #8",
            "6: tbz {n}, #2, 7f",
            "ldr {a:w}, [{from}], #4",
            "str {a:w}, [{to}], #4",
            "7: tbz {n}, #1, 8f",
            "ldrh {a:w}, [{from}], #2",
            "strh {a:w}, [{to}], #2",
            "8: tbz {n}, #0, 9f",
            "ldrb {a:w}, [{from}]",
            "strb {a:w}, [{to}]",
            "9:",
            to = inout(reg) to => _,
            from = inout(reg) from => _,
            n = inout(reg) len => _,
            a = out(reg) _,
            b = out(reg) _,
            c = out(reg) _,
            d = out(reg) _,
            options(nostack),
        );
    }
}

/// Copies out of a frame. Words, which most arguments of hypercalls are, take one access.
#[inline(always)]
pub fn read(mfn: Mfn, offset: usize, buf: &mut [u8]) -> Result<(), Fault> {
    let from = checked(mfn, offset, buf.len())?;
    // SAFETY: the source lies in one mapped frame of RAM that no Rust reference covers; a guest writing it at the same
    // time can only make the bytes copied arbitrary, which callers assume anyway.
    unsafe {
        match buf.len() {
            4 => buf.copy_from_slice(&load!(u32, "ldr {0:w}, [{1}]", from).to_ne_bytes()),
            8 => buf.copy_from_slice(&load!(u64, "ldr {0}, [{1}]", from).to_ne_bytes()),
            len => copy_any(buf.as_mut_ptr(), from, len),
        }
    }
    Ok(())
}

/// Copies into a frame; the counterpart of [`read`].
#[inline(always)]
pub fn write(mfn: Mfn, offset: usize, buf: &[u8]) -> Result<(), Fault> {
    let to = checked(mfn, offset, buf.len())?;
    // SAFETY: the target lies in one mapped frame of RAM that no Rust reference covers.
    unsafe {
        if let Ok(word) = <[u8; 4]>::try_from(buf) {
            store!("str {0:w}, [{1}]", to, u32::from_ne_bytes(word));
        } else if let Ok(word) = <[u8; 8]>::try_from(buf) {
            store!("str {0}, [{1}]", to, u64::from_ne_bytes(word));
        } else {
            copy_any(to, buf.as_ptr(), buf.len());
        }
    }
    Ok(())
}

/// Copies between frames.
pub fn copy(to: (Mfn, usize), from: (Mfn, usize), len: usize) -> Result<(), Fault> {
    let target = checked(to.0, to.1, len)?;
    let source = checked(from.0, from.1, len)?;
    if to.0 == from.0 {
        // SAFETY: both ranges lie in a mapped frame of RAM that no Rust reference covers; they may overlap.
        unsafe { core::ptr::copy(source, target, len) }
    } else {
        // SAFETY: the ranges lie in two mapped frames of RAM that no Rust reference covers.
        unsafe { copy_any(target, source, len) }
    }
    Ok(())
}

/// Zeroes `1 << order` frames by cache blocks (`dc zva`).
pub fn zero(first: Mfn, order: Order) {
    let last = first.plus((1 << order) - 1);
    if !is_ram(first) || !is_ram(last) {
        return;
    }
    let dczid = crate::cpu::regs::read!("dczid_el0");
    let start = address(first.base());
    let end = start + ((PAGE_SIZE as u64) << order);
    if dczid & 0x10 != 0 {
        // SAFETY: the frames are mapped RAM that no Rust reference covers.
        unsafe { core::ptr::write_bytes(start as *mut u8, 0, (end - start) as usize) }
        return;
    }
    let step = 4u64 << (dczid & 0xf);
    let mut at = start;
    while at < end {
        // SAFETY: zeroes one block inside the frames, which are mapped RAM that no Rust reference covers; the block
        // size divides the frame size and `at` is aligned to it.
        unsafe { core::arch::asm!("dc zva, {}", in(reg) at, options(nostack, preserves_flags)) }
        at += step;
    }
}

/// Cleans the data cache to the point of coherency over a range of RAM, for a reader that does not use caches yet.
pub fn clean_to_memory(start: HostPhys, len: u64) {
    let line = 4u64 << (crate::cpu::regs::read!("ctr_el0") >> 16 & 0xf);
    let from = address(start) & !(line - 1);
    let to = address(start) + len;
    let mut at = from;
    while at < to {
        // SAFETY: cache maintenance by address on mapped RAM does not change what it holds.
        unsafe { core::arch::asm!("dc civac, {}", in(reg) at, options(nostack, preserves_flags)) }
        at += line;
    }
    crate::cpu::regs::dsb_sy();
}

/// Cache maintenance on a range inside one frame, to the point of coherency.
pub fn cache_maintenance(mfn: Mfn, offset: usize, len: usize, op: CacheOp) {
    let Ok(start) = checked(mfn, offset, len) else {
        return;
    };
    let line = 4u64 << (crate::cpu::regs::read!("ctr_el0") >> 16 & 0xf);
    let (start, end) = (start as u64, start as u64 + len as u64);
    let mut at = start & !(line - 1);
    while at < end {
        // A line that the range fills only in part also holds somebody's other data.
        let partial = at < start || at + line > end;
        // SAFETY: cache maintenance by address on mapped RAM; invalidating whole lines of the range drops what the
        // guest that owns it asked to drop, and lines shared with other data are cleaned first.
        unsafe {
            match op {
                CacheOp::Clean => {
                    asm!("dc cvac, {}", in(reg) at, options(nostack, preserves_flags))
                }
                CacheOp::Invalidate if !partial => {
                    asm!("dc ivac, {}", in(reg) at, options(nostack, preserves_flags));
                }
                _ => asm!("dc civac, {}", in(reg) at, options(nostack, preserves_flags)),
            }
        }
        at += line;
    }
    crate::cpu::regs::dsb_sy();
}

/// Does an operation on an atomic word.
macro_rules! operate {
    ($word:expr, $op:expr) => {{
        let word: &_ = $word;
        match $op {
            AtomicOp::Load => word.load(SeqCst),
            AtomicOp::Swap(value) => word.swap(value, SeqCst),
            AtomicOp::Or(value) => word.fetch_or(value, SeqCst),
            AtomicOp::And(value) => word.fetch_and(value, SeqCst),
            AtomicOp::Cas { old, new } => match word.compare_exchange(old, new, SeqCst, SeqCst) {
                Ok(seen) | Err(seen) => seen,
            },
        }
    }};
}

macro_rules! atomic {
    ($name:ident, $word:ty, $atomic:ty) => {
        /// One atomic operation on a word of a frame.
        #[inline(always)]
        pub fn $name(mfn: Mfn, offset: usize, op: AtomicOp<$word>) -> Result<$word, Fault> {
            let at = checked(mfn, offset, size_of::<$word>())?.cast::<$word>();
            if !at.is_aligned() {
                return Err(Fault);
            }
            // SAFETY: aligned, inside a mapped frame of RAM, and only ever accessed atomically or by byte copies.
            let word = unsafe { <$atomic>::from_ptr(at) };
            Ok(operate!(word, op))
        }
    };
}

macro_rules! word {
    ($name:ident, $word:ty, $atomic:ty) => {
        /// One atomic operation on the aligned word around an offset in a frame.
        #[inline(always)]
        pub fn $name(RamFrame(frame): RamFrame, offset: usize, op: AtomicOp<$word>) -> $word {
            let offset = offset & (PAGE_SIZE - size_of::<$word>());
            let at = (frame.get() + offset as u64) as *mut $word;
            // SAFETY: aligned, inside a mapped frame of RAM, and only ever accessed atomically or by byte copies.
            let word = unsafe { <$atomic>::from_ptr(at) };
            operate!(word, op)
        }
    };
}

atomic!(atomic64, u64, AtomicU64);
atomic!(atomic32, u32, AtomicU32);
atomic!(atomic16, u16, AtomicU16);
atomic!(atomic8, u8, AtomicU8);
word!(word32, u32, AtomicU32);
word!(word16, u16, AtomicU16);
word!(word64, u64, AtomicU64);
word!(word8, u8, AtomicU8);

const _: () = assert!(1 << PAGE_SHIFT == PAGE_SIZE);
