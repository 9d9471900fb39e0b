//! Where the L1 entry of an address is: a walk through the guest's tables in software.

use core::sync::atomic::Ordering::Acquire;

use xenolith_core::Errno;
use xenolith_hal::{GuestVirt, Hal, Mfn};

use super::{AddressSpace, ENTRIES, Level, Machine, PageTables, entry, is_guest_address};

/// An entry of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryPlace {
    /// The table.
    pub table: Mfn,
    /// Which of its entries; below [`ENTRIES`].
    pub slot: usize,
}

impl<H: Hal, M: Machine<H>> PageTables<'_, H, M> {
    /// The place of the L1 entry that maps an address of the vCPU that runs here. Another CPU may change the tables at the
    /// same time: whoever uses the place holds the frame as an L1 table of the right domain first.
    #[inline(always)]
    pub fn l1_entry(self, space: &AddressSpace, address: GuestVirt) -> Result<EntryPlace, Errno> {
        let root = space.kernel().ok_or(Errno::EINVAL)?;
        self.walk(root, address).ok_or(Errno::EINVAL)
    }

    /// The place of the L1 entry that maps an address under a root.
    #[inline(always)]
    pub fn walk(self, root: Mfn, address: GuestVirt) -> Option<EntryPlace> {
        if !is_guest_address(address.0) {
            return None;
        }
        let mut table = root;
        for level in [Level::L4, Level::L3, Level::L2] {
            let word = self.hv.hal.table(table)?.get(level.slot(address.0))?;
            let found = word.load(Acquire);
            if found & (entry::PRESENT | entry::PAT) != entry::PRESENT {
                return None;
            }
            table = entry::frame(found);
        }
        let slot = Level::L1.slot(address.0) % ENTRIES;
        Some(EntryPlace { table, slot })
    }
}
