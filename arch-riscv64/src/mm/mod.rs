//! Memory: the hypervisor's own Sv39 tables and the direct map.

#[cfg(target_arch = "riscv64")]
pub mod hyp;
pub mod layout;
pub mod pte;
