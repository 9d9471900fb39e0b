//! Memory: the hypervisor's own tables and the direct map.

#[cfg(target_os = "none")]
pub mod firmware;
#[cfg(target_os = "none")]
pub mod hyp;
pub mod layout;
pub mod pte;
