//! The shared page as 32-bit x86 guests see it. Their calls are turned into the common form ([`narrow`](crate::narrow)).
//!
//! Headers: `arch-x86/xen.h`, `arch-x86/xen-x86_32.h`. A word of event bits has 32 bits, and so has the selector; in bytes, both
//! bitmaps are laid out as with words of 64.

use crate::shared_info::{SharedInfoLayout, VcpuInfoLayout};

/// Ports of the two-level form: a selector of 32 bits, words of 32 bits.
pub const PORTS: u32 = 32 * 32;

/// Where everything lies.
pub const SHARED_INFO: SharedInfoLayout = SharedInfoLayout {
    size: 0x928,
    vcpu_info: 0,
    vcpu_info_stride: 64,
    vcpu_info_count: crate::x86_64::LEGACY_MAX_VCPUS,
    evtchn_pending: 0x800,
    evtchn_mask: 0x880,
    wc_version: 0x900,
    wc_sec: 0x904,
    wc_nsec: 0x908,
    wc_sec_hi: 0x924,
    arch: 0x90c,
    ports: PORTS,
    vcpu: VcpuInfoLayout {
        size: 64,
        evtchn_upcall_pending: 0,
        evtchn_upcall_mask: 1,
        has_upcall_mask: true,
        evtchn_pending_sel: 4,
        arch: 8,
        time: 32,
    },
};
