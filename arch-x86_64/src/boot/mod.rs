//! Start-up of the machine: from the first Rust instruction to all CPUs.

#[cfg(target_os = "none")]
mod build;
#[cfg(target_os = "none")]
mod dom0;
#[cfg(target_os = "none")]
mod domains;
#[cfg(target_os = "none")]
mod domu;
#[cfg(target_os = "none")]
pub(crate) mod head;
pub mod info;
#[cfg(target_os = "none")]
mod modules;
#[cfg(target_os = "none")]
mod pv;
#[cfg(target_os = "none")]
mod smp;
#[cfg(target_os = "none")]
mod start;

#[cfg(target_os = "none")]
use start::primary;
