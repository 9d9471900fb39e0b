//! The page that a domain shares with the hypervisor: event bits and time.
//!
//! Header: `xen.h` (`shared_info`, `vcpu_info`, `vcpu_time_info`). The forms of the architectures differ
//! in their vCPU array and tails ([`arm`](crate::arm), [`x86_64`](crate::x86_64)). The core never
//! overlays either on guest memory: it takes the offsets from a [`SharedInfoLayout`] and works on single
//! words, since guest and hypervisor write the page at the same time.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Words of event bits: one bit of a vCPU's selector stands for one word.
pub const EVENT_WORDS: usize = 64;

/// System time of a vCPU as a function of its cycle counter (`vcpu_time_info`).
///
/// The version is odd while the hypervisor changes the rest. Time in nanoseconds is
/// `system_time + (((tsc - tsc_timestamp) << tsc_shift) * tsc_to_system_mul >> 32)`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct VcpuTimeInfo {
    /// Odd during an update.
    pub version: u32,
    #[doc(hidden)]
    pub pad0: u32,
    /// Cycle counter at the last update.
    pub tsc_timestamp: u64,
    /// Nanoseconds since boot at the last update.
    pub system_time: u64,
    /// Nanoseconds per shifted cycle, times 2^32.
    pub tsc_to_system_mul: u32,
    /// Shift of the cycle count: left, or right if negative.
    pub tsc_shift: i8,
    /// What the guest may rely on.
    pub flags: TimeFlags,
    #[doc(hidden)]
    pub pad1: [u8; 2],
}

wire_flags! {
    /// Flags of [`VcpuTimeInfo`] (`XEN_PVCLOCK_*`).
    pub struct TimeFlags: u8 {
        /// Times of different vCPUs can be compared.
        const TSC_STABLE = 1 << 0;
        /// The guest was stopped since it last looked.
        const GUEST_STOPPED = 1 << 1;
    }
}

/// Where the fields of `vcpu_info` lie, in bytes from its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VcpuInfoLayout {
    /// Size of the struct.
    pub size: usize,
    /// One byte: an upcall is pending.
    pub evtchn_upcall_pending: usize,
    /// One byte: upcalls are masked. Only x86 guests use it; elsewhere it is padding that
    /// must be ignored, see `has_upcall_mask`.
    pub evtchn_upcall_mask: usize,
    /// Whether `evtchn_upcall_mask` means anything.
    pub has_upcall_mask: bool,
    /// One 64-bit word: which words of pending bits to look at.
    pub evtchn_pending_sel: usize,
    /// The architecture's part.
    pub arch: usize,
    /// A [`VcpuTimeInfo`].
    pub time: usize,
}

/// Where the fields of `shared_info` lie, in bytes from the start of the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SharedInfoLayout {
    /// Size of the struct; it fits in one page.
    pub size: usize,
    /// The array of `vcpu_info`.
    pub vcpu_info: usize,
    /// Bytes from one `vcpu_info` to the next.
    pub vcpu_info_stride: usize,
    /// vCPUs that have a `vcpu_info` here; others must register their own.
    pub vcpu_info_count: usize,
    /// [`EVENT_WORDS`] words of pending bits.
    pub evtchn_pending: usize,
    /// [`EVENT_WORDS`] words of mask bits.
    pub evtchn_mask: usize,
    /// 32-bit version of the wall clock, odd during an update.
    pub wc_version: usize,
    /// 32-bit low half of the seconds since 1970 at system time 0.
    pub wc_sec: usize,
    /// 32-bit nanoseconds that go with it.
    pub wc_nsec: usize,
    /// 32-bit high half of the seconds.
    pub wc_sec_hi: usize,
    /// The architecture's part.
    pub arch: usize,
    /// Ports that have a bit: as many as fit a selector of words.
    pub ports: u32,
    /// What lies inside a `vcpu_info`, here or registered elsewhere.
    pub vcpu: VcpuInfoLayout,
}

impl SharedInfoLayout {
    /// Offset of the `vcpu_info` of a vCPU in the page, if it has one there.
    #[must_use]
    pub const fn vcpu_info_offset(&self, vcpu: u32) -> Option<usize> {
        let vcpu = vcpu as usize;
        if vcpu >= self.vcpu_info_count {
            return None;
        }
        match vcpu.checked_mul(self.vcpu_info_stride) {
            Some(bytes) => self.vcpu_info.checked_add(bytes),
            None => None,
        }
    }
}

/// The form of every architecture but x86: one `vcpu_info` in the page, no upcall mask.
pub const COMMON: SharedInfoLayout = crate::arm::SHARED_INFO;

/// Builds both layouts from the structs of one architecture, so that they cannot drift apart.
macro_rules! shared_info_layout {
    (upcall mask: $has_mask:expr, $mask_field:ident) => {
        $crate::shared_info::SharedInfoLayout {
            size: size_of::<SharedInfo>(),
            vcpu_info: core::mem::offset_of!(SharedInfo, vcpu_info),
            vcpu_info_stride: size_of::<VcpuInfo>(),
            vcpu_info_count: LEGACY_MAX_VCPUS,
            evtchn_pending: core::mem::offset_of!(SharedInfo, evtchn_pending),
            evtchn_mask: core::mem::offset_of!(SharedInfo, evtchn_mask),
            wc_version: core::mem::offset_of!(SharedInfo, wc_version),
            wc_sec: core::mem::offset_of!(SharedInfo, wc_sec),
            wc_nsec: core::mem::offset_of!(SharedInfo, wc_nsec),
            wc_sec_hi: core::mem::offset_of!(SharedInfo, wc_sec_hi),
            arch: core::mem::offset_of!(SharedInfo, arch),
            ports: ($crate::shared_info::EVENT_WORDS * 64) as u32,
            vcpu: $crate::shared_info::VcpuInfoLayout {
                size: size_of::<VcpuInfo>(),
                evtchn_upcall_pending: core::mem::offset_of!(VcpuInfo, evtchn_upcall_pending),
                evtchn_upcall_mask: core::mem::offset_of!(VcpuInfo, $mask_field),
                has_upcall_mask: $has_mask,
                evtchn_pending_sel: core::mem::offset_of!(VcpuInfo, evtchn_pending_sel),
                arch: core::mem::offset_of!(VcpuInfo, arch),
                time: core::mem::offset_of!(VcpuInfo, time),
            },
        }
    };
}
pub(crate) use shared_info_layout;

// Both forms fit in one page.
const _: () = assert!(crate::arm::SHARED_INFO.size <= 4096);
const _: () = assert!(crate::x86_64::SHARED_INFO.size <= 4096);

#[cfg(test)]
mod tests {
    use crate::{arm, x86_64};

    #[test]
    fn only_legacy_vcpus_have_a_slot_in_the_page() {
        let arm = arm::SHARED_INFO;
        assert_eq!(arm.vcpu_info_offset(0), Some(0));
        assert_eq!(arm.vcpu_info_offset(1), None);
        let x86 = x86_64::SHARED_INFO;
        assert_eq!(x86.vcpu_info_offset(31), Some(31 * 64));
        assert_eq!(x86.vcpu_info_offset(32), None);
        assert_eq!(x86.vcpu_info_offset(u32::MAX), None);
    }
}
