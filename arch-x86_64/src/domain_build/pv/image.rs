//! Fills a PV guest's memory with all that is in it at the start.
//!
//! In two steps, so that memory where the kernel's file and the ramdisk lie can become the domain's own in between:
//! [`Image::write`] needs the frames that have a use, [`Image::finish`] all.

use core::fmt;

use xenolith_core::boot::elf::pv::PvKernel;
use xenolith_hal::{Gfn, Mfn, PAGE_SIZE};

use super::{
    frames::FrameMap,
    hypercall_page,
    layout::Layout,
    start_info::{self, Contents},
    tables::{ENTRIES, Table},
};
use zerocopy::IntoBytes;

/// Machine memory, to be written.
pub trait Memory {
    /// Puts bytes into a frame; `None` where that is no memory, or the end would be outside the frame.
    fn write(&mut self, frame: Mfn, offset: usize, bytes: &[u8]) -> Option<()>;
    /// Fills a part of a frame with zeroes.
    fn zero(&mut self, frame: Mfn, offset: usize, len: usize) -> Option<()>;
}

/// A frame that must be there is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoFrame;

impl fmt::Display for NoFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a frame of its memory is missing")
    }
}

/// What goes into a domain's memory.
#[derive(Clone, Copy, Debug)]
pub struct Image<'i> {
    /// The kernel.
    pub kernel: &'i PvKernel<'i>,
    /// Where everything goes.
    pub layout: &'i Layout,
    /// The ramdisk, as long as the layout says; empty if the layout has none.
    pub ramdisk: &'i [u8],
    /// What the start info tells.
    pub contents: Contents<'i>,
}

impl Image<'_> {
    /// Writes all but the list of frames and the start info. The map has at least the frames with a use.
    pub fn write(&self, frames: &FrameMap, memory: &mut impl Memory) -> Result<(), NoFrame> {
        self.load(frames, memory).ok_or(NoFrame)
    }

    fn load(&self, frames: &FrameMap, memory: &mut impl Memory) -> Option<()> {
        let layout = self.layout;
        for segment in &self.kernel.segments {
            let at = segment.virt - layout.area.start;
            let filled = segment.bytes.len() as u64;
            put(frames, memory, at, segment.bytes)?;
            clear(frames, memory, at + filled, segment.memory.size() - filled)?;
        }
        if let Some(at) = self.kernel.hypercall_page {
            let (frame, _) = layout.frame(at)?;
            memory.write(frames.mfn(frame)?, 0, &hypercall_page::page())?;
        }
        if let Some(ramdisk) = layout.ramdisk {
            let at = start_of(ramdisk.frame);
            put(frames, memory, at, self.ramdisk)?;
            let filled = at + self.ramdisk.len() as u64;
            clear(frames, memory, filled, to_page_end(filled))?;
        }
        let rings = layout.rings.map(|rings| [rings.store, rings.console]);
        for frame in rings.into_iter().flatten().chain([layout.stack]) {
            memory.zero(frames.mfn(frame)?, 0, PAGE_SIZE)?;
        }
        layout.tables.write(frames, |frame, table| {
            memory.write(frame, 0, table.as_bytes())
        })
    }

    /// Writes the list of frames and the start info. The map has all frames.
    pub fn finish(&self, frames: &FrameMap, memory: &mut impl Memory) -> Result<(), NoFrame> {
        if frames.len() != self.layout.frames {
            return Err(NoFrame);
        }
        self.tell(frames, memory).ok_or(NoFrame)
    }

    fn tell(&self, frames: &FrameMap, memory: &mut impl Memory) -> Option<()> {
        let layout = self.layout;
        let page = start_info::page(layout, frames, &self.contents)?;
        memory.write(frames.mfn(layout.start_info)?, 0, &page)?;

        let mut mfns = frames.extents().flat_map(|e| e.mfn.0..e.mfn.0 + e.count);
        for index in 0..layout.list.frames {
            let mut entries: Table = [0; ENTRIES];
            entries
                .iter_mut()
                .zip(&mut mfns)
                .for_each(|(to, mfn)| *to = mfn);
            let frame = frames.mfn(layout.list.frame.plus(index))?;
            memory.write(frame, 0, entries.as_bytes())?;
        }
        Some(())
    }
}

/// Where a frame's bytes start, counted from the domain's first.
const fn start_of(frame: Gfn) -> u64 {
    frame.0 * PAGE_SIZE as u64
}

const fn to_page_end(at: u64) -> u64 {
    at.wrapping_neg() % PAGE_SIZE as u64
}

/// The next piece of a range that lies in one frame: the frame, the offset in it, the length.
fn piece(frames: &FrameMap, at: u64, len: u64) -> Option<(Mfn, usize, usize)> {
    let frame = frames.mfn(Gfn(at / PAGE_SIZE as u64))?;
    let offset = (at % PAGE_SIZE as u64) as usize;
    Some((frame, offset, len.min((PAGE_SIZE - offset) as u64) as usize))
}

/// Puts bytes at an address counted from the domain's first byte.
fn put(frames: &FrameMap, memory: &mut impl Memory, mut at: u64, mut bytes: &[u8]) -> Option<()> {
    while !bytes.is_empty() {
        let (frame, offset, len) = piece(frames, at, bytes.len() as u64)?;
        let (now, later) = bytes.split_at_checked(len)?;
        memory.write(frame, offset, now)?;
        at += len as u64;
        bytes = later;
    }
    Some(())
}

/// Fills a range with zeroes.
fn clear(frames: &FrameMap, memory: &mut impl Memory, mut at: u64, len: u64) -> Option<()> {
    let end = at.checked_add(len)?;
    while at < end {
        let (frame, offset, len) = piece(frames, at, end - at)?;
        memory.zero(frame, offset, len)?;
        at += len as u64;
    }
    Some(())
}
