//! The page tables of paravirtual guests (`xen.h`: `mmu_update`, `mmuext_op`, `update_va_mapping`).
//!
//! The CPU walks the tables that a guest wrote, so the hypervisor checks each entry before the CPU sees it and lets nobody
//! write a table behind its back. What keeps that true:
//! * Every frame has one type at a time (`xenolith_core::memory`, the frame's record). A table's entries hold references and
//!   uses of what they lead to: L1 entries a reference, and a use as writable memory if they allow writing; entries of the
//!   other levels a reference and a use as the table of the level below.
//! * An entry changes by one compare-and-swap. What the new one holds is taken before it, what the old one held is dropped
//!   after it, by the one CPU that swapped. So no lock guards a table.
//! * What an entry held follows from the entry and the record of the frame alone, whoever made it.
//! * Checking and undoing tables above L1 stops between entries when an interrupt waits; the record says how far it came.
//!   A CPU waits for another one only while it holds tables of a higher level, so no two wait for each other.
//! * A frame changes from one type to another only when no CPU can have the old use in its TLB.
//!
//! The machine's side is [`Machine`]; all else here runs on the host as well.

pub mod address_space;
mod batch;
mod check;
pub mod descriptors;
pub mod entry;
mod flush;
mod frames;
mod grant;
mod level;
mod linear;
mod machine;
mod mmu_update;
mod mmuext;
mod owner;
mod pages;
mod release;
mod roots;
mod trapped;
mod undo;
mod update;
mod va_mapping;
mod walk;

use core::sync::atomic::AtomicU64;

use xenolith_core::{Errno, Hypervisor};
use xenolith_hal::{Hal, Mfn, PAGE_SIZE};

pub use address_space::AddressSpace;
pub use level::Level;
pub use machine::{Flush, IoAccess, Machine};
pub use owner::Rights;
pub use trapped::{TrappedWrite, Written};
pub use walk::EntryPlace;

/// Entries of a table.
pub const ENTRIES: usize = PAGE_SIZE / 8;

/// The entries of a table.
pub type Words = [AtomicU64; ENTRIES];

/// Why something about page tables does not happen now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// An interrupt waits: ask again, and it goes on where it was.
    Preempted,
    /// It cannot be.
    Failed(Errno),
}

impl From<Errno> for Stop {
    fn from(errno: Errno) -> Self {
        Self::Failed(errno)
    }
}

/// All page tables of paravirtual guests of a machine.
pub struct PageTables<'a, H: Hal, M> {
    /// The hypervisor.
    pub hv: &'a Hypervisor<H>,
    /// What the machine does with tables.
    pub machine: &'a M,
}

impl<H: Hal, M> Clone for PageTables<'_, H, M> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<H: Hal, M> Copy for PageTables<'_, H, M> {}

impl<'a, H: Hal, M: Machine<H>> PageTables<'a, H, M> {
    /// The entries of a frame that is a table.
    #[inline(always)]
    fn words(self, table: Mfn) -> Result<&'a Words, Errno> {
        self.hv.hal.table(table).ok_or(Errno::EINVAL)
    }
}

/// Whether an address can be a guest's: an address, and not in the hypervisor's slots.
#[inline(always)]
#[must_use]
pub const fn is_guest_address(address: u64) -> bool {
    const LOW_END: u64 = 1 << 47;
    const HYPERVISOR_END: u64 = 0xffff_8800_0000_0000;
    // Everything from the upper end of the lower half to the hypervisor's end is in one piece.
    address.wrapping_sub(LOW_END) >= HYPERVISOR_END - LOW_END
}
