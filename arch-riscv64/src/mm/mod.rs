//! Memory: the hypervisor's own tables, the direct map, the guests' G-stage tables.

#[cfg(target_arch = "riscv64")]
pub mod fences;
pub mod gstage;
#[cfg(target_arch = "riscv64")]
pub mod guest_access;
#[cfg(target_arch = "riscv64")]
pub mod hyp;
pub mod layout;
pub mod pte;
pub mod walk;
