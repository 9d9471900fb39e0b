//! The ABI as 64-bit x86 guests see it.
//!
//! Headers: `arch-x86/xen.h`, `arch-x86/xen-x86_64.h`. Hypercalls take the number in `rax` and arguments
//! in `rdi rsi rdx r10 r8`, by the hypercall page or by the processor's own instruction.

mod context;

pub use context::*;

use crate::shared_info::{EVENT_WORDS, SharedInfoLayout, VcpuTimeInfo, shared_info_layout};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// vCPUs with a `vcpu_info` in the shared page; all others must register theirs.
pub const LEGACY_MAX_VCPUS: usize = 32;

/// I/O port whose bytes go to the hypervisor's console.
pub const DEBUGCONS_PORT: u16 = 0xe9;

/// The architecture's part of [`VcpuInfo`] (`arch_vcpu_info`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ArchVcpuInfo {
    /// Faulting address of the last page fault given to a PV guest.
    pub cr2: u64,
    #[doc(hidden)]
    pub pad: u64,
}

/// The architecture's part of [`SharedInfo`] (`arch_shared_info`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ArchSharedInfo {
    /// Entries in the guest's physical-to-machine table.
    pub max_pfn: u64,
    /// Frame at the root of its three-level form; 0 if not set up, all ones if it does not fit.
    pub pfn_to_mfn_frame_list_list: u64,
    /// Why an NMI was sent.
    pub nmi_reason: u64,
    /// `cr3` under which `p2m_vaddr` is mapped; 0 if the linear form is not in use.
    pub p2m_cr3: u64,
    /// Virtual address of the linear form.
    pub p2m_vaddr: u64,
    /// Odd while the guest changes the mapping of the linear form.
    pub p2m_generation: u64,
}

/// What one vCPU shares with the hypervisor (`vcpu_info`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct VcpuInfo {
    /// Non-zero: an upcall is pending.
    pub evtchn_upcall_pending: u8,
    /// Non-zero: the guest takes no upcall now.
    pub evtchn_upcall_mask: u8,
    #[doc(hidden)]
    pub _pad: [u8; 6],
    /// Which words of pending bits to look at.
    pub evtchn_pending_sel: u64,
    /// The architecture's part.
    pub arch: ArchVcpuInfo,
    /// The paravirtual clock.
    pub time: VcpuTimeInfo,
}

/// The shared page (`shared_info`).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SharedInfo {
    /// The first vCPUs until they register their own.
    pub vcpu_info: [VcpuInfo; LEGACY_MAX_VCPUS],
    /// A bit for each port that has an event.
    pub evtchn_pending: [u64; EVENT_WORDS],
    /// A bit for each port that shall not raise an upcall.
    pub evtchn_mask: [u64; EVENT_WORDS],
    /// Odd while the wall clock changes.
    pub wc_version: u32,
    /// Seconds since 1970 at system time 0, low half.
    pub wc_sec: u32,
    /// Nanoseconds that go with it.
    pub wc_nsec: u32,
    /// High half of the seconds.
    pub wc_sec_hi: u32,
    /// The architecture's part.
    pub arch: ArchSharedInfo,
}

/// A change of one page-table entry (`mmu_update`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MmuUpdate {
    /// In: the machine address of the entry; what is to be done in the lowest bits.
    pub ptr: u64,
    /// In: what it shall be.
    pub val: u64,
}

/// An operation on page tables (`mmuext_op`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MmuextOp {
    /// In: what is to be done.
    pub cmd: u32,
    #[doc(hidden)]
    pub _pad: [u8; 4],
    /// In: a frame or an address.
    pub arg1: u64,
    /// In: a number, a frame or a pointer.
    pub arg2: u64,
}

/// Offsets of the above, for the core.
pub const SHARED_INFO: SharedInfoLayout =
    shared_info_layout!(upcall mask: true, evtchn_upcall_mask);
