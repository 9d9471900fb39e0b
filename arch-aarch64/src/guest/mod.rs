//! What the hypervisor keeps for a guest, and what it does at its exits.

#[cfg(target_arch = "aarch64")]
pub mod context;
pub mod esr;
#[cfg(target_arch = "aarch64")]
pub mod fp;
pub mod regs;
#[cfg(target_arch = "aarch64")]
pub mod vcpu;
