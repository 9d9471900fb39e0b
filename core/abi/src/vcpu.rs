//! Operations on one vCPU of the calling domain.
//!
//! Header: `vcpu.h`. The call takes the sub-operation, the number of the vCPU and a pointer.

use crate::handle::GuestHandle;
use crate::runstate::RunstateInfo;
use crate::shared_info::VcpuTimeInfo;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

wire_enum! {
    /// A sub-operation of `vcpu_op`.
    pub enum VcpuOp: u32, unknown is ENOSYS {
        /// Gives a vCPU its first registers (architecture struct).
        Initialise = 0,
        /// Lets it run; no argument.
        Up = 1,
        /// Takes it down; no argument.
        Down = 2,
        /// Returns 1 if it is up, else 0; no argument.
        IsUp = 3,
        /// Tells where its time went: [`RunstateInfo`].
        GetRunstateInfo = 4,
        /// Keeps a copy of that in guest memory: [`RegisterRunstateMemoryArea`].
        RegisterRunstateMemoryArea = 5,
        /// Starts the periodic timer: [`SetPeriodicTimer`].
        SetPeriodicTimer = 6,
        /// Stops the periodic timer; no argument.
        StopPeriodicTimer = 7,
        /// Arms the one-shot timer: [`SetSingleshotTimer`].
        SetSingleshotTimer = 8,
        /// Disarms the one-shot timer; no argument.
        StopSingleshotTimer = 9,
        /// Moves its `vcpu_info` into guest memory: [`RegisterVcpuInfo`].
        RegisterVcpuInfo = 10,
        /// Sends it an NMI; no argument.
        SendNmi = 11,
        /// Tells the physical CPU that it is pinned to: [`GetPhysid`].
        GetPhysid = 12,
        /// Keeps a copy of its time in guest memory: [`RegisterTimeMemoryArea`].
        RegisterVcpuTimeMemoryArea = 13,
    }
}

/// Argument of [`VcpuOp::RegisterRunstateMemoryArea`] (`vcpu_register_runstate_memory_area`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RegisterRunstateMemoryArea {
    /// In: virtual address in the guest.
    pub addr: GuestHandle<RunstateInfo>,
}

/// Argument of [`VcpuOp::SetPeriodicTimer`] (`vcpu_set_periodic_timer`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SetPeriodicTimer {
    /// In: the period in nanoseconds.
    pub period_ns: u64,
}

wire_flags! {
    /// Flags of [`SetSingleshotTimer`] (`VCPU_SSHOTTMR_*`).
    pub struct SingleshotFlags: u32 {
        /// Answer `ETIME` if the time has passed already; a hypervisor may ignore it.
        const FUTURE = 1 << 0;
    }
}

/// Argument of [`VcpuOp::SetSingleshotTimer`] (`vcpu_set_singleshot_timer`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SetSingleshotTimer {
    /// In: absolute system time in nanoseconds.
    pub timeout_abs_ns: u64,
    /// In: flags.
    pub flags: SingleshotFlags,
    #[doc(hidden)]
    pub _pad: [u8; 4],
}

/// Argument of [`VcpuOp::RegisterVcpuInfo`] (`vcpu_register_vcpu_info`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RegisterVcpuInfo {
    /// In: the guest frame (machine frame for PV).
    pub mfn: u64,
    /// In: byte offset in that frame; the struct may not cross its end.
    pub offset: u32,
    #[doc(hidden)]
    pub rsvd: u32,
}

/// Result of [`VcpuOp::GetPhysid`] (`vcpu_get_physid`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GetPhysid {
    /// Out: on x86 the APIC id in the low half, the ACPI id in the high half.
    pub phys_id: u64,
}

/// Argument of [`VcpuOp::RegisterVcpuTimeMemoryArea`] (`vcpu_register_time_memory_area`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RegisterTimeMemoryArea {
    /// In: virtual address in the guest.
    pub addr: GuestHandle<VcpuTimeInfo>,
}
