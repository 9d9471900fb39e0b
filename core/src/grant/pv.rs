//! Granted frames in the page tables of a paravirtual guest.
//!
//! The core pins the grant, and so the frame, before the architecture makes the page-table entry, and lets go after the
//! entry is gone and no TLB holds it ([`Rows`](crate::hypercall::Rows)). A pin for writing holds the frame as writable memory
//! too, where its owner is paravirtual.

use xenolith_abi::grant_table::{EntryFlags, MapFlags};
use xenolith_hal::{GuestVirt, HostPhys, Mfn};

/// Where the page-table entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PvPlace {
    /// It is the one that maps this address of the caller's current address space.
    Address(GuestVirt),
    /// It is the eight bytes at this machine address, in a table of the caller's.
    Entry(HostPhys),
}

/// An entry that leads to a granted frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PvMapping {
    /// Where the entry is.
    pub place: PvPlace,
    /// The granted frame, which the core holds for as long as the mapping stands.
    pub mfn: Mfn,
    /// What the caller asked for: whether it may only read, whether its applications may access, bits for itself.
    pub flags: MapFlags,
    /// How the granter wants it cached; only `PWT`, `PCD` and `PAT` mean anything.
    pub cache: EntryFlags,
}

impl PvMapping {
    /// Whether the entry allows writing.
    pub fn is_writable(&self) -> bool {
        !self.flags.contains(MapFlags::READONLY)
    }

    pub(super) fn place(flags: MapFlags, host_addr: u64) -> PvPlace {
        match flags.contains(MapFlags::CONTAINS_PTE) {
            true => PvPlace::Entry(HostPhys(host_addr)),
            false => PvPlace::Address(GuestVirt(host_addr)),
        }
    }
}
