//! Memory: the hypervisor's own tables at EL2, the direct map, and stage 2 for guests.

#[cfg(target_arch = "aarch64")]
pub mod direct;
#[cfg(target_arch = "aarch64")]
pub mod guest_access;
#[cfg(target_arch = "aarch64")]
pub mod hardware;
#[cfg(target_arch = "aarch64")]
pub mod hyp;
pub mod layout;
#[cfg(target_arch = "aarch64")]
mod memcpy;
pub mod stage2;
