//! Giving up the CPU, waiting, and ending a domain.
//!
//! Header: `sched.h`. Times are system time in nanoseconds unless a field says otherwise.

use crate::handle::GuestHandle;
use crate::ids::{DomId, Port};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

wire_enum! {
    /// A sub-operation of `sched_op`.
    pub enum SchedOp: u32, unknown is ENOSYS {
        /// Lets others run; no argument.
        Yield = 0,
        /// Unmasks upcalls and waits for one; no argument.
        Block = 1,
        /// Ends the domain: [`Shutdown`].
        Shutdown = 2,
        /// Waits for one of some ports, upcalls masked: [`Poll`].
        Poll = 3,
        /// Declares another domain shut down: [`RemoteShutdown`].
        RemoteShutdown = 4,
        /// Sets the reason in advance, without shutting down: [`Shutdown`].
        ShutdownCode = 5,
        /// Arms, rearms or disarms a watchdog: [`Watchdog`]; returns its name.
        Watchdog = 6,
        /// Pins the caller to a physical CPU for a while: [`PinOverride`].
        PinOverride = 7,
    }
}

wire_enum! {
    /// Why a domain ends (`SHUTDOWN_*`).
    pub enum ShutdownReason: u32, unknown is EINVAL {
        /// It is done.
        Poweroff = 0,
        /// It wants to start again.
        Reboot = 1,
        /// It is ready to be saved.
        Suspend = 2,
        /// It crashed.
        Crash = 3,
        /// Its watchdog ran out.
        Watchdog = 4,
        /// It wants its Xen state reset but its memory kept.
        SoftReset = 5,
    }
}

/// Argument of [`SchedOp::Shutdown`] (`sched_shutdown`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Shutdown {
    /// In: a number of [`ShutdownReason`].
    pub reason: u32,
}

/// Argument of [`SchedOp::Poll`] (`sched_poll`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Poll {
    /// In: the ports; their mask bits are ignored.
    pub ports: GuestHandle<Port>,
    /// In: how many, 128 at most in practice.
    pub nr_ports: u32,
    #[doc(hidden)]
    pub _pad: [u8; 4],
    /// In: absolute system time to give up at; 0 for never.
    pub timeout: u64,
}

/// Argument of [`SchedOp::RemoteShutdown`] (`sched_remote_shutdown`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RemoteShutdown {
    /// In: which domain.
    pub domain_id: DomId,
    #[doc(hidden)]
    pub _pad: [u8; 2],
    /// In: a number of [`ShutdownReason`].
    pub reason: u32,
}

/// Argument of [`SchedOp::Watchdog`] (`sched_watchdog`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Watchdog {
    /// In: 0 for a new one.
    pub id: u32,
    /// In: seconds from now; 0 disarms.
    pub timeout: u32,
}

/// Argument of [`SchedOp::PinOverride`] (`sched_pin_override`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PinOverride {
    /// In: the physical CPU; negative ends the override.
    pub pcpu: i32,
}
