//! Where a vCPU's time went.
//!
//! Header: `vcpu.h`. The four times add up to the system time since the vCPU was made. With the
//! `RunstateUpdateFlag` assist on, [`UPDATE`] is set in `state_entry_time` while the guest's copy changes.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

wire_enum! {
    /// What a vCPU is doing (`RUNSTATE_*`).
    pub enum Runstate: u32, unknown is EINVAL {
        /// Runs on a physical CPU.
        Running = 0,
        /// Could run, but another does.
        Runnable = 1,
        /// Waits.
        Blocked = 2,
        /// Neither runs nor could: not up, or paused.
        Offline = 3,
    }
}

/// `XEN_RUNSTATE_UPDATE`: an update of the guest's copy is under way.
pub const UPDATE: u64 = 1 << 63;

/// Times of one vCPU (`vcpu_runstate_info`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RunstateInfo {
    /// A number of [`Runstate`].
    pub state: u32,
    #[doc(hidden)]
    pub _pad: [u8; 4],
    /// System time in nanoseconds when this state began, and [`UPDATE`].
    pub state_entry_time: u64,
    /// Nanoseconds spent in each [`Runstate`].
    pub time: [u64; 4],
}
