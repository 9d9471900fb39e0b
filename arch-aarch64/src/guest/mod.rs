//! What the hypervisor keeps for a guest, and what it does at its exits.

#[cfg(target_arch = "aarch64")]
pub mod context;
pub mod debug_regs;
pub mod decode;
pub mod esr;
#[cfg(target_arch = "aarch64")]
pub mod exit;
#[cfg(target_arch = "aarch64")]
pub mod fp;
pub mod frames;
#[cfg(target_arch = "aarch64")]
pub mod host_id;
pub mod id_regs;
#[cfg(target_arch = "aarch64")]
pub mod inject;
#[cfg(target_arch = "aarch64")]
pub mod mmio;
#[cfg(target_arch = "aarch64")]
pub mod psci;
pub mod regs;
#[cfg(target_arch = "aarch64")]
mod stage2_fault;
#[cfg(target_arch = "aarch64")]
pub mod sysreg;
pub mod told;
#[cfg(target_arch = "aarch64")]
pub mod vcpu;
pub mod vpl011;
