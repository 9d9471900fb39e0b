//! Memory: the hypervisor's own tables, the direct map, second-level tables and the guest's own paging.

#[cfg(target_os = "none")]
pub mod caches;
#[cfg(target_os = "none")]
pub mod firmware;
pub mod guest_access;
#[cfg(target_os = "none")]
pub mod hardware;
#[cfg(target_os = "none")]
pub mod hyp;
pub mod layout;
#[cfg(target_os = "none")]
pub mod machine_to_phys;
#[cfg(target_os = "none")]
pub mod nested;
#[cfg(target_os = "none")]
pub mod peephole;
pub mod pte;
pub mod second_level;
pub mod walk;
