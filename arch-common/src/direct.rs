//! The direct map: RAM at a fixed distance from its physical address, and what counts as RAM.
//!
//! Frames handed to guests are reached only through the functions here, by copy and by atomic words; no reference to
//! them is ever made.

use core::{
    marker::PhantomData,
    num::NonZeroU64,
    ops::Range,
    sync::atomic::{
        AtomicU8, AtomicU16, AtomicU32, AtomicU64,
        Ordering::{Relaxed, SeqCst},
    },
};

use xenolith_hal::{AtomicOp, Fault, HostPhys, Mfn, Order, PAGE_SIZE};

use crate::Paging;

const MAX_BANKS: usize = 16;

/// Ranges of frames in the direct map, start and length; filled once at boot, before other CPUs run.
static BANKS: [(AtomicU64, AtomicU64); MAX_BANKS] =
    [const { (AtomicU64::new(0), AtomicU64::new(0)) }; MAX_BANKS];

/// Records that frames are mapped. Where that makes too many pieces of RAM, the smallest falls out: it is given, and is not RAM.
pub fn add_bank(start: Mfn, end: Mfn) -> Option<Range<Mfn>> {
    let (mut start, mut end) = (start.0, end.0);
    if start >= end {
        return None;
    }
    // Pieces that touch are one.
    for (from, length) in &BANKS {
        let (first, frames) = (from.load(Relaxed), length.load(Relaxed));
        let last = first + frames;
        if frames != 0 && (last == start || end == first) {
            (start, end) = (start.min(first), end.max(last));
            from.store(0, Relaxed);
            length.store(0, Relaxed);
        }
    }
    for (from, length) in &BANKS {
        let (first, frames) = (from.load(Relaxed), length.load(Relaxed));
        // The largest stands first: most questions are about it.
        if end - start > frames {
            from.store(start, Relaxed);
            length.store(end - start, Relaxed);
            (start, end) = (first, first + frames);
        }
        if end == start {
            return None;
        }
    }
    Some(Mfn(start)..Mfn(end))
}

/// Whether the frame is RAM in the direct map.
#[inline(always)]
pub fn is_ram(mfn: Mfn) -> bool {
    is_in_largest_bank(mfn) || is_in_a_smaller_bank(mfn)
}

/// Whether the frame is RAM in the largest piece of it.
#[inline(always)]
pub fn is_in_largest_bank(mfn: Mfn) -> bool {
    let [bank, ..] = &BANKS;
    is_in(bank, mfn)
}

#[inline(never)]
fn is_in_a_smaller_bank(mfn: Mfn) -> bool {
    BANKS.iter().skip(1).any(|bank| is_in(bank, mfn))
}

/// The same as [`is_ram`], with the two largest pieces looked at in place: for an architecture whose machines commonly have RAM in
/// two, and whose hot paths ask.
#[inline(always)]
pub fn is_ram_of_two(mfn: Mfn) -> bool {
    let [first, second, ..] = &BANKS;
    is_in(first, mfn) || is_in(second, mfn) || is_rare(mfn)
}

#[cold]
#[inline(never)]
fn is_rare(mfn: Mfn) -> bool {
    is_in_a_smaller_bank(mfn)
}

#[inline(always)]
fn is_in((from, length): &(AtomicU64, AtomicU64), mfn: Mfn) -> bool {
    mfn.0.wrapping_sub(from.load(Relaxed)) < length.load(Relaxed)
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
            let at = Self::checked(mfn, offset, size_of::<$word>())?.cast::<$word>();
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

/// A frame of RAM in the direct map: its virtual address. Only `frame` makes one, of a frame that is RAM.
#[derive(Clone, Copy)]
pub struct RamFrame(NonZeroU64);

/// Access to RAM through the direct map of an address space.
pub struct Direct<P>(PhantomData<P>);

impl<P: Paging> Direct<P> {
    /// The virtual address of a physical one; it may be used only where [`Paging::is_ram`] says so.
    #[inline]
    #[must_use]
    pub const fn address(pa: HostPhys) -> u64 {
        P::DIRECT_VA + (pa.0 & (P::DIRECT_LIMIT - 1))
    }

    /// The address of `len` bytes in a frame of RAM: for copies and for cache maintenance, never for a reference.
    #[inline(always)]
    pub fn checked(mfn: Mfn, offset: usize, len: usize) -> Result<*mut u8, Fault> {
        let end = offset.checked_add(len).ok_or(Fault)?;
        if end > PAGE_SIZE || !P::is_ram(mfn) {
            return Err(Fault);
        }
        Ok((Self::address(mfn.base()) + offset as u64) as *mut u8)
    }

    /// The frame, if it is RAM.
    #[inline]
    pub fn frame(mfn: Mfn) -> Option<RamFrame> {
        if !P::is_ram(mfn) {
            return None;
        }
        NonZeroU64::new(Self::address(mfn.base())).map(RamFrame)
    }

    /// The words of a frame, if it is RAM: for page tables that a guest may read and the CPU walks.
    #[inline(always)]
    pub fn words(mfn: Mfn) -> Option<&'static [AtomicU64; PAGE_SIZE / 8]> {
        if !P::is_ram(mfn) {
            return None;
        }
        let at = Self::address(mfn.base()) as *const [AtomicU64; PAGE_SIZE / 8];
        // SAFETY: a whole mapped frame of RAM, which stays mapped; atomics may be shared with guests and with the CPU.
        Some(unsafe { &*at })
    }

    /// Copies out of a frame.
    #[inline]
    pub fn read(mfn: Mfn, offset: usize, buf: &mut [u8]) -> Result<(), Fault> {
        let from = Self::checked(mfn, offset, buf.len())?;
        // SAFETY: the source lies in one mapped frame of RAM that no Rust reference covers; a guest writing it at the same
        // time can only make the bytes copied arbitrary, which callers assume anyway.
        unsafe { core::ptr::copy_nonoverlapping(from, buf.as_mut_ptr(), buf.len()) }
        Ok(())
    }

    /// Copies into a frame.
    #[inline]
    pub fn write(mfn: Mfn, offset: usize, buf: &[u8]) -> Result<(), Fault> {
        let to = Self::checked(mfn, offset, buf.len())?;
        // SAFETY: the target lies in one mapped frame of RAM that no Rust reference covers.
        unsafe { core::ptr::copy_nonoverlapping(buf.as_ptr(), to, buf.len()) }
        Ok(())
    }

    /// Copies between frames.
    #[inline]
    pub fn copy(to: (Mfn, usize), from: (Mfn, usize), len: usize) -> Result<(), Fault> {
        let target = Self::checked(to.0, to.1, len)?;
        let source = Self::checked(from.0, from.1, len)?;
        // SAFETY: both ranges lie in mapped frames of RAM that no Rust reference covers; they may overlap.
        unsafe { core::ptr::copy(source, target, len) }
        Ok(())
    }

    /// Fills `1 << order` frames with zeroes.
    pub fn zero(first: Mfn, order: Order) {
        if !P::is_ram(first) || !P::is_ram(first.plus((1 << order) - 1)) {
            return;
        }
        // SAFETY: the frames are mapped RAM that no Rust reference covers.
        unsafe { P::zero(Self::address(first.base()), PAGE_SIZE << order) }
    }

    atomic!(atomic64, u64, AtomicU64);
    atomic!(atomic32, u32, AtomicU32);
    atomic!(atomic16, u16, AtomicU16);
    atomic!(atomic8, u8, AtomicU8);
    word!(word32, u32, AtomicU32);
    word!(word16, u16, AtomicU16);
    word!(word64, u64, AtomicU64);
    word!(word8, u8, AtomicU8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_too_many_pieces_the_smallest_falls_out() {
        let piece = |size: u64| (Mfn(size * 1000), Mfn(size * 1000 + size));
        let sizes = [9u64, 3, 12, 5, 7, 1, 16, 2, 11, 4, 13, 6, 15, 8, 14, 10];
        for (start, end) in sizes.map(piece) {
            assert_eq!(add_bank(start, end), None);
        }
        let (start, end) = piece(17);
        assert_eq!(add_bank(start, end), Some(Mfn(1000)..Mfn(1001)));
        assert!(!is_ram(Mfn(1000)) && is_ram(Mfn(17_000)) && is_ram(Mfn(2001)));
        // What touches another one needs no place of its own.
        assert_eq!(add_bank(Mfn(2002), Mfn(2010)), None);
        assert!(is_ram(Mfn(2009)) && !is_ram(Mfn(2010)));
        let (start, end) = (Mfn(500), Mfn(501));
        assert_eq!(add_bank(start, end), Some(start..end));
    }
}
