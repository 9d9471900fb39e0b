//! What boot loader and firmware left in memory, for reading.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use xenolith_arch_common::Access;
use xenolith_hal::{HostPhys, PAGE_SIZE};

use super::{
    hyp::Hyp,
    layout::{DIRECT_LIMIT, FIRMWARE_VA},
};

/// No table that is read here is larger.
const MOST: usize = 1 << 20;

static USED: AtomicU64 = AtomicU64::new(0);

/// Bytes at a physical address, mapped read-only for ever; `None` when there cannot be that many or no page table is left.
pub fn bytes(at: u64, len: usize) -> Option<&'static [u8]> {
    let end = at.checked_add(len as u64)?;
    if at == 0 || len == 0 || len > MOST || end > DIRECT_LIMIT {
        return None;
    }
    let pages = (len.div_ceil(PAGE_SIZE) + 1) as u64;
    let window = FIRMWARE_VA + USED.fetch_add(pages * PAGE_SIZE as u64, Relaxed);
    let va = Hyp::map_window(window, HostPhys(at), len as u64, Access::RamReadOnly).ok()?;
    // SAFETY: the bytes are mapped read-only, and nothing writes boot information or firmware tables while start-up reads
    // them: the memory is not given to the allocator before that is over.
    Some(unsafe { core::slice::from_raw_parts(va as *const u8, len) })
}
