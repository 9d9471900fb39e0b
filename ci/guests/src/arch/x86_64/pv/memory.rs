//! Machine frames of this domain's memory: its p2m list, and the hypervisor's machine-to-physical table, which is mapped
//! read-only in every PV address space.

use super::{read64, start_info, tables};

const PAGE: u64 = 4096;
/// Where pseudo-physical memory begins; as the note says.
pub const VIRT_BASE: u64 = 0x4000_0000;
/// The machine-to-physical table.
pub const MACHINE_TO_PHYS: u64 = 0xffff_8000_0000_0000;
/// Bit of a p2m entry that no machine frame has: there is none.
pub const INVALID: u64 = 1 << 63;

/// Address of the p2m entry of a pseudo-physical frame.
pub fn p2m_entry(pfn: u64) -> u64 {
    start_info::start_info().mfn_list + pfn * 8
}

/// Machine frame of a pseudo-physical frame; `u64::MAX` beyond the domain's memory.
pub fn machine_frame(pfn: u64) -> u64 {
    if pfn < start_info::start_info().nr_pages {
        read64(p2m_entry(pfn))
    } else {
        u64::MAX
    }
}

/// What the machine-to-physical table says of a machine frame.
pub fn physical_frame(mfn: u64) -> u64 {
    read64(MACHINE_TO_PHYS + mfn * 8)
}

/// Machine frame of the page at a virtual address: that of the memory at hand, or in a window what is mapped there.
pub fn frame_of(address: u64) -> u64 {
    if let Some(offset) = address.checked_sub(VIRT_BASE) {
        let pfn = offset / PAGE;
        if pfn < start_info::start_info().nr_pages {
            return machine_frame(pfn);
        }
    }
    tables::leaf(address).map_or(u64::MAX, tables::frame_in)
}

/// Virtual address of a machine frame of this domain, where the domain builder mapped it.
pub fn address_of(mfn: u64) -> u64 {
    VIRT_BASE + physical_frame(mfn) * PAGE
}
