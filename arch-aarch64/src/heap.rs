//! The hypervisor's heap, in this architecture's direct map.

use xenolith_arch_common::DirectMap;
pub use xenolith_arch_common::{heap_use, refill_reserve, set_source};
use xenolith_hal::HostPhys;

use crate::mm::direct;

/// The direct map of [`direct`].
pub struct Direct;

impl DirectMap for Direct {
    fn address(pa: HostPhys) -> u64 {
        direct::address(pa)
    }
}

/// The global allocator.
pub type Heap = xenolith_arch_common::Heap<Direct>;
