//! What a PV domain tells a PV dom0 beside it, whose test maps its frames: words of a page that it grants dom0 to write.

/// The grant of that page.
pub const REFERENCE: u32 = 8;
/// The first word of memory that is shown.
pub const PATTERN: u64 = 0x5157_0000_5157_0000;

/// Offsets of the words. The first is for others.
#[allow(missing_docs)]
pub mod word {
    /// Not zero when those below are there.
    pub const READY: u64 = 8;
    /// Frames: of memory, of a table of level 1 with an entry for it, of a root, and of what the hypervisor shares.
    pub const MEMORY: u64 = 16;
    pub const TABLE: u64 = 24;
    pub const ROOT: u64 = 32;
    pub const SHARED_INFO: u64 = 40;
    pub const GRANT_TABLE: u64 = 48;
    /// A frame that is now memory, now a table of level 1.
    pub const CHANGING: u64 = 56;
    /// The number of the turn in which it is a table; 0: it is none.
    pub const TURN: u64 = 64;
    /// The last turn that dom0 has looked at.
    pub const SEEN: u64 = 72;
    /// Dom0 has done with all.
    pub const STOP: u64 = 80;
    /// What came of it: 1, and 1 more for each thing that went wrong.
    pub const VERDICT: u64 = 88;
}
