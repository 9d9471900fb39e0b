//! Where the L1 entry of an address is: a walk through the guest's tables in software.

use core::sync::atomic::Ordering::Acquire;

use xenolith_core::{Errno, VcpuRef};
use xenolith_hal::{GuestVirt, Hal, Mfn};

use super::{ENTRIES, Level, Machine, PageTables, entry, is_guest_address};

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
    #[inline]
    pub fn l1_entry(self, vcpu: &VcpuRef<H>, address: GuestVirt) -> Result<EntryPlace, Errno> {
        match self.machine.l1_entry(vcpu, address) {
            Some(place) => Ok(place),
            None => {
                let root = self.machine.address_space(vcpu).kernel();
                self.walk(root.ok_or(Errno::EINVAL)?, address)
            }
        }
    }

    /// The place of the L1 entry that maps an address under a root.
    pub fn walk(self, root: Mfn, address: GuestVirt) -> Result<EntryPlace, Errno> {
        if !is_guest_address(address.0) {
            return Err(Errno::EINVAL);
        }
        let mut table = root;
        for level in [Level::L4, Level::L3, Level::L2] {
            let word = self.words(table)?.get(level.slot(address.0));
            let found = word.ok_or(Errno::EINVAL)?.load(Acquire);
            if found & entry::PRESENT == 0 || found & entry::PAT != 0 {
                return Err(Errno::EINVAL);
            }
            table = entry::frame(found);
        }
        let slot = Level::L1.slot(address.0) % ENTRIES;
        Ok(EntryPlace { table, slot })
    }
}
