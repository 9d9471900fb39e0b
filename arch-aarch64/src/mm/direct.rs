//! The direct map: RAM at a fixed distance from its physical address, and what counts as RAM.
//!
//! Frames handed to guests are reached only through the functions here, by copy and by atomic words; no reference to
//! them is ever made.

use core::arch::asm;
use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering::SeqCst};

use xenolith_hal::{AtomicOp, CacheOp, Fault, HostPhys, Mfn, Order, PAGE_SHIFT, PAGE_SIZE};

use super::layout::{DIRECT_LIMIT, DIRECT_VA};

const MAX_BANKS: usize = 16;

/// Ranges of frames in the direct map, start and end; filled once at boot, before other CPUs run.
static BANKS: [(AtomicU64, AtomicU64); MAX_BANKS] =
    [const { (AtomicU64::new(0), AtomicU64::new(0)) }; MAX_BANKS];

/// Records that frames are mapped. False when there are too many pieces of RAM; the rest is then not used.
pub fn add_bank(start: Mfn, end: Mfn) -> bool {
    use core::sync::atomic::Ordering::Relaxed;
    for (from, to) in &BANKS {
        if to.load(Relaxed) == 0 {
            from.store(start.0, Relaxed);
            to.store(end.0, Relaxed);
            return true;
        }
    }
    false
}

/// Whether the frame is RAM in the direct map.
#[inline]
pub fn is_ram(mfn: Mfn) -> bool {
    use core::sync::atomic::Ordering::Relaxed;
    for (from, to) in &BANKS {
        let end = to.load(Relaxed);
        if end == 0 {
            return false;
        }
        if mfn.0 < end && mfn.0 >= from.load(Relaxed) {
            return true;
        }
    }
    false
}

/// The virtual address of a physical one in the direct map; it may be used only where [`is_ram`] says so.
#[inline]
pub const fn address(pa: HostPhys) -> u64 {
    DIRECT_VA + (pa.0 & (DIRECT_LIMIT - 1))
}

#[inline]
fn checked(mfn: Mfn, offset: usize, len: usize) -> Result<*mut u8, Fault> {
    let end = offset.checked_add(len).ok_or(Fault)?;
    if end > PAGE_SIZE || !is_ram(mfn) {
        return Err(Fault);
    }
    Ok((address(mfn.base()) + offset as u64) as *mut u8)
}

/// Copies out of a frame.
#[inline]
pub fn read(mfn: Mfn, offset: usize, buf: &mut [u8]) -> Result<(), Fault> {
    let from = checked(mfn, offset, buf.len())?;
    // SAFETY: the source lies in one mapped frame of RAM that no Rust reference covers; a guest writing it at the same
    // time can only make the bytes copied arbitrary, which callers assume anyway.
    unsafe { core::ptr::copy_nonoverlapping(from, buf.as_mut_ptr(), buf.len()) }
    Ok(())
}

/// Copies into a frame.
#[inline]
pub fn write(mfn: Mfn, offset: usize, buf: &[u8]) -> Result<(), Fault> {
    let to = checked(mfn, offset, buf.len())?;
    // SAFETY: the target lies in one mapped frame of RAM that no Rust reference covers.
    unsafe { core::ptr::copy_nonoverlapping(buf.as_ptr(), to, buf.len()) }
    Ok(())
}

/// Copies between frames.
#[inline]
pub fn copy(to: (Mfn, usize), from: (Mfn, usize), len: usize) -> Result<(), Fault> {
    let target = checked(to.0, to.1, len)?;
    let source = checked(from.0, from.1, len)?;
    // SAFETY: both ranges lie in mapped frames of RAM that no Rust reference covers; they may overlap.
    unsafe { core::ptr::copy(source, target, len) }
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

macro_rules! atomic {
    ($name:ident, $word:ty, $atomic:ty) => {
        /// One atomic operation on a word of a frame.
        #[inline]
        pub fn $name(mfn: Mfn, offset: usize, op: AtomicOp<$word>) -> Result<$word, Fault> {
            let at = checked(mfn, offset, size_of::<$word>())?.cast::<$word>();
            if !at.is_aligned() {
                return Err(Fault);
            }
            // SAFETY: aligned, inside a mapped frame of RAM, and only ever accessed atomically or by byte copies.
            let word = unsafe { <$atomic>::from_ptr(at) };
            Ok(match op {
                AtomicOp::Load => word.load(SeqCst),
                AtomicOp::Swap(value) => word.swap(value, SeqCst),
                AtomicOp::Or(value) => word.fetch_or(value, SeqCst),
                AtomicOp::And(value) => word.fetch_and(value, SeqCst),
                AtomicOp::Cas { old, new } => match word.compare_exchange(old, new, SeqCst, SeqCst)
                {
                    Ok(seen) | Err(seen) => seen,
                },
            })
        }
    };
}

atomic!(atomic64, u64, AtomicU64);
atomic!(atomic32, u32, AtomicU32);
atomic!(atomic16, u16, AtomicU16);
atomic!(atomic8, u8, AtomicU8);

const _: () = assert!(1 << PAGE_SHIFT == PAGE_SIZE);
