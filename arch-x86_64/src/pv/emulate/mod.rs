//! Instructions that a PV guest's kernel uses as if it ran in ring 0, and the hypervisor does for it.
//!
//! They arrive as exceptions: a protection fault, or an undefined instruction where the guest asked for it by Xen's prefix
//! (`XEN_EMULATE_PREFIX`, `arch-x86/xen.h`). What is done, and for whom, follows Xen 4.17; all else is the guest's own exception.
//! What can be judged without the machine ([`decode`], [`control`], [`msr`], [`port`]) is tested on the host.

pub mod control;
pub mod decode;
pub mod msr;
pub mod port;

#[cfg(target_os = "none")]
pub mod controls;
#[cfg(target_os = "none")]
mod io;
#[cfg(target_os = "none")]
mod model;
#[cfg(target_os = "none")]
mod moves;
#[cfg(target_os = "none")]
mod place;
#[cfg(target_os = "none")]
mod serve;
#[cfg(target_os = "none")]
mod strings;

#[cfg(target_os = "none")]
pub use serve::{privileged, undefined};
