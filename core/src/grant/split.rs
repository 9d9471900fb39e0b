//! Entries of version 2: twice as long, with the hypervisor's marks in an array of status words apart.
//!
//! A version 2 entry grants a page, part of a page (for copies only), or passes on a grant of a third domain (for copies
//! only). Its range and what it passes on are read anew for each use; they are the granter's own to change.

use core::mem::offset_of;

use xenolith_abi::{
    DomId, GrantRef,
    grant_table::{EntryFlags, EntryV2},
};
use xenolith_hal::{
    AtomicOp::{And, Load, Or, Swap},
    Fault, Hal, Mfn, PAGE_SIZE,
};

use super::{
    GrantTable,
    entry::{SharedWord, SplitWord},
};

const PER_PAGE: usize = EntryV2::PER_PAGE as usize;
const STATUS_PER_PAGE: usize = EntryV2::STATUS_PER_PAGE as usize;
const PART: usize = offset_of!(EntryV2, part);
const FRAME: usize = offset_of!(EntryV2, frame);

/// Bytes of a page that a grant is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    start: usize,
    len: usize,
}

impl Range {
    pub(super) const PAGE: Self = Self {
        start: 0,
        len: PAGE_SIZE,
    };

    #[inline]
    pub(super) fn contains(self, offset: usize, len: usize) -> bool {
        offset >= self.start && offset + len <= self.start + self.len
    }
}

/// Both halves of an entry in memory of the hypervisor that its granter sees.
pub(super) struct SplitEntry<'a, H: Hal> {
    hal: &'a H,
    entry: (Mfn, usize),
    status: (Mfn, usize),
}

impl<H: Hal> GrantTable<H> {
    /// A version 2 entry.
    pub(super) fn split_entry<'a>(
        &self,
        hal: &'a H,
        GrantRef(gref): GrantRef,
    ) -> Option<SplitEntry<'a, H>> {
        let at = gref as usize;
        let frame = self.frames.get(at / PER_PAGE)?.get()?;
        let status = self.status.get(at / STATUS_PER_PAGE)?.get()?;
        Some(SplitEntry {
            hal,
            entry: (frame.mfn, at % PER_PAGE * size_of::<EntryV2>()),
            status: (status.mfn, at % STATUS_PER_PAGE * size_of::<u16>()),
        })
    }
}

impl<H: Hal> SplitEntry<'_, H> {
    fn word64(&self, at: usize) -> u64 {
        let (mfn, offset) = self.entry;
        self.hal
            .atomic64(mfn, offset + at, Load)
            .unwrap_or(u64::MAX)
    }

    pub(super) fn frame_number(&self) -> u64 {
        self.word64(FRAME)
    }

    /// The flags, with the marks as in an entry of version 1.
    pub(super) fn flags(&self) -> EntryFlags {
        let (mfn, offset) = self.status;
        let marks = self.hal.atomic16(mfn, offset, Load).unwrap_or(0);
        EntryFlags(self.load() as u16 | marks)
    }

    /// What part of the page is granted.
    pub(super) fn range(&self) -> Range {
        if !EntryFlags(self.load() as u16).contains(EntryFlags::SUB_PAGE) {
            return Range::PAGE;
        }
        let part = (self.word64(0) >> (PART * 8)) as u32;
        Range {
            start: (part & 0xffff) as usize,
            len: (part >> 16) as usize,
        }
    }

    /// What is passed on.
    pub(super) fn passed_on(&self) -> (DomId, GrantRef) {
        let domain = (self.word64(0) >> (PART * 8)) as u16;
        (DomId(domain), GrantRef(self.word64(FRAME) as u32))
    }

    /// Exchanges the granter's halves of two entries that are not in use.
    pub(super) fn swap(&self, other: &Self) -> Result<(), Fault> {
        let op = |end: &Self, at: usize, op| {
            let (mfn, offset) = end.entry;
            self.hal.atomic64(mfn, offset + at, op)
        };
        // Nothing is granted through either while their frames change.
        let (a, b) = (op(self, 0, Swap(0))?, op(other, 0, Swap(0))?);
        let frame = op(self, FRAME, Load)?;
        let frame = op(other, FRAME, Swap(frame))?;
        op(self, FRAME, Swap(frame))?;
        op(self, 0, Swap(b))?;
        op(other, 0, Swap(a))?;
        Ok(())
    }

    /// Writes an entry with its marks, where nobody else is.
    pub(super) fn put(&self, flags: EntryFlags, domid: DomId, frame: u64) -> Result<(), Fault> {
        let marks = flags & (EntryFlags::READING | EntryFlags::WRITING);
        let header = u64::from(flags.0 & !marks.0) | u64::from(domid.0) << 16;
        let (mfn, offset) = self.entry;
        self.mark(marks);
        self.hal.atomic64(mfn, offset + FRAME, Swap(frame))?;
        self.hal.atomic64(mfn, offset, Swap(header)).map(drop)
    }
}

impl<H: Hal> SharedWord for SplitEntry<'_, H> {
    fn load(&self) -> u32 {
        let (mfn, offset) = self.entry;
        self.hal.atomic32(mfn, offset, Load).unwrap_or(0)
    }

    fn replace(&self, old: u32, _: u32) -> u32 {
        !old
    }

    fn clear(&self, flags: EntryFlags) {
        let (mfn, offset) = self.status;
        let _ = self.hal.atomic16(mfn, offset, And(!flags.0));
    }
}

impl<H: Hal> SplitWord for SplitEntry<'_, H> {
    fn mark(&self, flags: EntryFlags) {
        let (mfn, offset) = self.status;
        let _ = self.hal.atomic16(mfn, offset, Or(flags.0));
    }
}
