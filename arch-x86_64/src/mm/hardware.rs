//! Nested tables in the machine's memory, and guest frames for reading and writing.
//!
//! Tables are frames that the core gave for this use, reached through the direct map by atomic words. Guest frames are
//! reached by copy and by atomic words only.

use core::{
    arch::asm,
    num::NonZeroU64,
    ops::Range,
    sync::atomic::{AtomicU64, Ordering},
};

use xenolith_arch_common::{is_in_largest_bank, is_ram, second_level::TableMemory};
use xenolith_hal::{Fault, Gfn, Mfn, PAGE_SIZE};

use super::{guest_access::Frames, hyp::Direct};

/// The TLBs that cache one domain's nested translations.
pub trait Tlb: Send + Sync {
    /// On return no CPU uses an old translation of these guest frames, nor a table that is no longer in the tree: a new
    /// generation of the domain's ASID or EPT pointer for every later entry, and every CPU that is in guest mode with the
    /// old one has left it. The tables are locked meanwhile: CPUs in the hypervisor must not be waited for.
    fn flush(&self, root: Mfn, changed: Range<Gfn>);
}

/// Tables in the direct map.
pub struct Hardware<T>(pub T);

fn word(table: Mfn, index: usize) -> &'static AtomicU64 {
    let va = Direct::address(table.base()) + (index as u64 & 511) * 8;
    // SAFETY: nested tables are frames of the direct map that the core gave for this use; accesses are atomic.
    unsafe { &*(va as *const AtomicU64) }
}

impl<T: Tlb> TableMemory for Hardware<T> {
    #[inline]
    fn load(&self, table: Mfn, index: usize) -> u64 {
        word(table, index).load(Ordering::Acquire)
    }

    #[inline]
    fn store(&self, table: Mfn, index: usize, value: u64) {
        word(table, index).store(value, Ordering::Release);
    }

    fn flush(&self, root: Mfn, changed: Range<Gfn>) {
        self.0.flush(root, changed);
    }
}

/// A frame of RAM in the direct map: its virtual address. Only [`Ram::frame`] makes one.
#[derive(Clone, Copy)]
pub struct Frame(NonZeroU64);

/// An aligned word of one: its virtual address. Only [`Ram::word`] makes one.
#[derive(Clone, Copy)]
pub struct Word(NonZeroU64);

/// The machine's RAM.
#[derive(Clone, Copy, Default)]
pub struct Ram;

impl Frame {
    /// The bytes from `offset`, as far as the frame goes.
    #[inline(always)]
    fn bytes(self, offset: usize, len: usize) -> (*mut u8, usize) {
        let offset = offset & (PAGE_SIZE - 1);
        let at = (self.0.get() + offset as u64) as *mut u8;
        (at, len.min(PAGE_SIZE - offset))
    }
}

impl Word {
    #[inline(always)]
    const fn pointer(self) -> *mut u64 {
        self.0.get() as *mut u64
    }
}

impl Frames for Ram {
    type Frame = Frame;
    type Word = Word;

    #[inline]
    fn frame(&self, mfn: Mfn) -> Option<Frame> {
        if !is_ram(mfn) {
            return None;
        }
        NonZeroU64::new(Direct::address(mfn.base())).map(Frame)
    }

    fn word(&self, frame: Frame, offset: usize) -> Word {
        // A frame is aligned to its size.
        Word(frame.0 | (offset & (PAGE_SIZE - 8)) as u64)
    }

    #[inline(always)]
    fn load(&self, word: Word) -> u64 {
        // SAFETY: an aligned word of a frame of RAM in the direct map, which stays mapped; no reference to it outlives this.
        unsafe { AtomicU64::from_ptr(word.pointer()) }.load(Ordering::Acquire)
    }

    fn compare_exchange(&self, word: Word, old: u64, new: u64) -> bool {
        // SAFETY: as in `load`.
        unsafe { AtomicU64::from_ptr(word.pointer()) }
            .compare_exchange(old, new, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
    }

    #[inline(always)]
    fn read(&self, frame: Frame, offset: usize, buf: &mut [u8]) {
        let (from, len) = frame.bytes(offset, buf.len());
        // SAFETY: the source lies in one mapped frame of RAM that no reference covers, the target is `buf`.
        unsafe { copy(buf.as_mut_ptr(), from, len) }
    }

    #[inline(always)]
    fn write(&self, frame: Frame, offset: usize, buf: &[u8]) {
        let (to, len) = frame.bytes(offset, buf.len());
        // SAFETY: the target lies in one mapped frame of RAM that no reference covers, the source is `buf`.
        unsafe { copy(to, buf.as_ptr(), len) }
    }
}

impl Ram {
    /// Copies between frames, each side within one.
    #[inline]
    pub fn copy(self, to: (Mfn, usize), from: (Mfn, usize), len: usize) -> Result<(), Fault> {
        let in_frame = to.1.max(from.1).saturating_add(len) <= PAGE_SIZE;
        // No call stands before the copy, so nothing has to be kept over one.
        if to.0 == from.0 || !in_frame || !is_in_largest_bank(to.0) || !is_in_largest_bank(from.0) {
            return copy_with_care(to, from, len);
        }
        let target = Direct::address(to.0.base()) + to.1 as u64;
        let source = Direct::address(from.0.base()) + from.1 as u64;
        // SAFETY: both lie in mapped frames of RAM, two different ones, that no reference covers.
        unsafe { copy(target as *mut u8, source as *const u8, len) }
        Ok(())
    }
}

#[cold]
#[inline(never)]
fn copy_with_care(to: (Mfn, usize), from: (Mfn, usize), len: usize) -> Result<(), Fault> {
    Direct::copy(to, from, len)
}

/// Above this many bytes the string instruction is shorter.
const BY_WORDS: usize = 128;

/// Copies between a guest's frame and the hypervisor. Written out, because a guest may write at the same time, which Rust's
/// own copies do not allow for; by words, because most copies are of a few.
///
/// # Safety
/// Both ranges are mapped, and no Rust reference covers the guest's.
#[inline(always)]
unsafe fn copy(to: *mut u8, from: *const u8, len: usize) {
    if len < 8 {
        // SAFETY: as the caller says.
        return unsafe { copy_few(to, from, len) };
    }
    let last = len - 8;
    if len > BY_WORDS {
        // SAFETY: as above; whole words below `len`.
        unsafe {
            asm!("rep movsq", inout("rdi") to => _, inout("rsi") from => _, inout("rcx") len / 8 => _,
                options(nostack, preserves_flags));
        }
    } else {
        let mut at = 0;
        while at + 24 < last {
            // SAFETY: `at + 32 < len`.
            unsafe { copy_four_words(to, from, at) }
            at += 32;
        }
        while at < last {
            // SAFETY: `at + 8 < len`.
            unsafe { copy_word(to, from, at) }
            at += 8;
        }
    }
    // SAFETY: the last eight bytes; they overlap those before where `len` is no multiple of eight.
    unsafe { copy_word(to, from, last) }
}

/// Copies less than eight bytes: two or four at once, as nearly all such copies are.
///
/// # Safety
/// As for [`copy`].
#[inline(always)]
unsafe fn copy_few(to: *mut u8, from: *const u8, len: usize) {
    match len {
        // SAFETY: as the caller says; unaligned moves are allowed.
        4 => unsafe {
            asm!("mov {word:e}, [{from}]", "mov [{to}], {word:e}", word = out(reg) _, from = in(reg) from, to = in(reg) to,
                options(nostack, preserves_flags));
        },
        // SAFETY: as above.
        2 => unsafe {
            asm!("movzx {word:e}, word ptr [{from}]", "mov [{to}], {word:x}", word = out(reg) _, from = in(reg) from,
                to = in(reg) to, options(nostack, preserves_flags));
        },
        // SAFETY: as above; the direction flag is clear in the hypervisor.
        _ => unsafe {
            asm!("rep movsb", inout("rdi") to => _, inout("rsi") from => _, inout("rcx") len => _,
                options(nostack, preserves_flags));
        },
    }
}

/// Copies the 32 bytes at an offset.
///
/// # Safety
/// 32 bytes at the offset from each address are mapped.
#[inline(always)]
unsafe fn copy_four_words(to: *mut u8, from: *const u8, at: usize) {
    // SAFETY: as the caller says; unaligned moves are allowed.
    unsafe {
        asm!("mov {a}, [{from} + {at}]", "mov {b}, [{from} + {at} + 8]", "mov [{to} + {at}], {a}", "mov [{to} + {at} + 8], {b}",
            "mov {a}, [{from} + {at} + 16]", "mov {b}, [{from} + {at} + 24]", "mov [{to} + {at} + 16], {a}",
            "mov [{to} + {at} + 24], {b}", a = out(reg) _, b = out(reg) _, from = in(reg) from, to = in(reg) to,
            at = in(reg) at, options(nostack, preserves_flags));
    }
}

/// Copies the eight bytes at an offset.
///
/// # Safety
/// Eight bytes at the offset from each address are mapped.
#[inline(always)]
unsafe fn copy_word(to: *mut u8, from: *const u8, at: usize) {
    // SAFETY: as the caller says; unaligned moves are allowed.
    unsafe {
        asm!("mov {word}, [{from} + {at}]", "mov [{to} + {at}], {word}", word = out(reg) _, from = in(reg) from,
            to = in(reg) to, at = in(reg) at, options(nostack, preserves_flags));
    }
}
