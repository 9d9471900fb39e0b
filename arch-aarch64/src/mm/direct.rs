//! What is this machine's own in reaching RAM by the direct map: copies by register pairs, zeroes and maintenance by cache
//! blocks.

use core::arch::asm;

pub use xenolith_arch_common::RamFrame;
use xenolith_hal::{CacheOp, Fault, HostPhys, Mfn};

use super::hyp::El2;

/// The direct map of EL2's address space.
pub type Direct = xenolith_arch_common::Direct<El2>;

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
    let from = Direct::checked(mfn, offset, buf.len())?;
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
    let to = Direct::checked(mfn, offset, buf.len())?;
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
    let target = Direct::checked(to.0, to.1, len)?;
    let source = Direct::checked(from.0, from.1, len)?;
    if to.0 == from.0 {
        // SAFETY: both ranges lie in a mapped frame of RAM that no Rust reference covers; they may overlap.
        unsafe { core::ptr::copy(source, target, len) }
    } else {
        // SAFETY: the ranges lie in two mapped frames of RAM that no Rust reference covers.
        unsafe { copy_any(target, source, len) }
    }
    Ok(())
}

/// Fills memory with zeroes by cache blocks (`dc zva`).
///
/// # Safety
/// Both say whole frames of mapped RAM that no Rust reference covers.
pub unsafe fn zero(start: u64, len: usize) {
    let dczid = crate::cpu::regs::read!("dczid_el0");
    let end = start + len as u64;
    if dczid & 0x10 != 0 {
        // SAFETY: the caller's promise.
        unsafe { core::ptr::write_bytes(start as *mut u8, 0, len) }
        return;
    }
    let step = 4u64 << (dczid & 0xf);
    let mut at = start;
    while at < end {
        // SAFETY: zeroes one block inside the frames that the caller means; the block size divides the frame size and `at`
        // is aligned to it.
        unsafe { asm!("dc zva, {}", in(reg) at, options(nostack, preserves_flags)) }
        at += step;
    }
}

/// Cleans the data cache to the point of coherency over a range of RAM, for a reader that does not use caches yet.
pub fn clean_to_memory(start: HostPhys, len: u64) {
    let line = 4u64 << (crate::cpu::regs::read!("ctr_el0") >> 16 & 0xf);
    let from = Direct::address(start) & !(line - 1);
    let to = Direct::address(start) + len;
    let mut at = from;
    while at < to {
        // SAFETY: cache maintenance by address on mapped RAM does not change what it holds.
        unsafe { asm!("dc civac, {}", in(reg) at, options(nostack, preserves_flags)) }
        at += line;
    }
    crate::cpu::regs::dsb_sy();
}

/// Cache maintenance on a range inside one frame, to the point of coherency.
pub fn cache_maintenance(mfn: Mfn, offset: usize, len: usize, op: CacheOp) {
    let Ok(start) = Direct::checked(mfn, offset, len) else {
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
