//! Second-level translation: which machine frame stands behind a guest frame, and with which rights.
//!
//! The implementor owns the tables and their lock. On return from any change the old translation can no longer be
//! used by any CPU: TLBs are flushed inside. What the *frames* count (owners, references) is the core's business.

use crate::{Gfn, Mfn, NoMemory, Order};

/// What a guest frame is. The implementor stores it beside the translation and gives it back unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum P2mType {
    /// The domain's own memory.
    RamRw = 1,
    /// Memory that the domain may only read.
    RamRo = 2,
    /// A device's registers, passed through; uncached.
    MmioDirect = 3,
    /// Another domain's frame mapped by a privileged domain.
    ForeignRw = 4,
    /// The same, read-only.
    ForeignRo = 5,
    /// A frame mapped through a grant.
    GrantRw = 6,
    /// The same, read-only.
    GrantRo = 7,
    /// Hypervisor-owned memory shown to the guest (shared info, grant table frames).
    XenShared = 8,
}

impl P2mType {
    /// Whether the guest may write.
    #[must_use]
    pub const fn writable(self) -> bool {
        !matches!(self, Self::RamRo | Self::ForeignRo | Self::GrantRo)
    }

    /// From the stored number; `None` for what was never stored.
    #[must_use]
    pub const fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits {
            1 => Self::RamRw,
            2 => Self::RamRo,
            3 => Self::MmioDirect,
            4 => Self::ForeignRw,
            5 => Self::ForeignRo,
            6 => Self::GrantRw,
            7 => Self::GrantRo,
            8 => Self::XenShared,
            _ => return None,
        })
    }
}

/// A translation as found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct P2mEntry {
    /// The machine frame behind exactly the guest frame that was asked for.
    pub mfn: Mfn,
    /// What it is.
    pub kind: P2mType,
    /// log2 frames of the block that translates it (0, 9 or 18 on x86-64 and on ARM with 4 KiB granule).
    pub order: Order,
}

/// Why a translation could not be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum P2mError {
    /// The guest frame number is beyond what the tables reach.
    OutOfRange,
    /// No frame for a table: the domain's quota or the machine is exhausted.
    NoMemory,
}

impl From<NoMemory> for P2mError {
    fn from(_: NoMemory) -> Self {
        Self::NoMemory
    }
}

/// Where tables get their frames from: the core, which charges them to the domain.
pub trait TableFrames {
    /// A zeroed frame for a table.
    fn allocate(&self) -> Result<Mfn, NoMemory>;
    /// `1 << order` zeroed frames in one piece, aligned to their size, for a first table of several frames. Each is
    /// given back by itself.
    fn allocate_block(&self, order: Order) -> Result<Mfn, NoMemory> {
        if order == 0 {
            self.allocate()
        } else {
            Err(NoMemory)
        }
    }
    /// A table frame that is no longer reachable by any table walk.
    fn free(&self, mfn: Mfn);
}

/// The translation of one domain.
pub trait P2m: Send + Sync {
    /// Guest frames are below this number.
    fn limit(&self) -> Gfn;

    /// Maps `count` frames from `gfn` to the machine frames from `mfn`, with the largest blocks that fit both.
    /// Earlier translations in the range are replaced. On error the range is left partly mapped; the caller unmaps.
    fn map(
        &self,
        gfn: Gfn,
        mfn: Mfn,
        count: u64,
        kind: P2mType,
        tables: &dyn TableFrames,
    ) -> Result<(), P2mError>;

    /// Takes away the translations of `count` frames from `gfn`, splitting blocks where needed.
    fn unmap(&self, gfn: Gfn, count: u64, tables: &dyn TableFrames) -> Result<(), P2mError>;

    /// Replaces the translation of one frame and tells what it was before, in one step under the lock.
    fn exchange(
        &self,
        gfn: Gfn,
        new: Option<(Mfn, P2mType)>,
        tables: &dyn TableFrames,
    ) -> Result<Option<P2mEntry>, P2mError>;

    /// Takes one frame's translation away if it still is `expected`; tells whether it was.
    fn remove_if(
        &self,
        gfn: Gfn,
        expected: (Mfn, P2mType),
        tables: &dyn TableFrames,
    ) -> Result<bool, P2mError>;

    /// What stands behind a guest frame now. It may change as soon as this returns: take a reference on the frame
    /// and look again, or use [`P2m::with_entry`].
    fn lookup(&self, gfn: Gfn) -> Option<P2mEntry> {
        self.with_entry(gfn, |entry| entry)
    }

    /// Calls `f` with the translation while it is held stable.
    fn with_entry<R>(&self, gfn: Gfn, f: impl FnOnce(Option<P2mEntry>) -> R) -> R;

    /// The first translation at or after `from`, for walks over all of a domain's memory: its first guest frame, its
    /// entry (for that frame) and how many frames the rest of its block covers.
    fn next_mapped(&self, from: Gfn) -> Option<(Gfn, P2mEntry, u64)>;

    /// Gives every table frame back. No CPU runs the domain any more, but others may still have it: they find nothing
    /// mapped from then on, and changes are out of range.
    fn release(&self, tables: &dyn TableFrames);
}
