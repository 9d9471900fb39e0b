//! A guest in hardware virtualization: its state, its exits, what it is given to see.

pub mod hardware;
pub mod paging;
pub mod regs;

#[cfg(target_os = "none")]
pub mod backend;
#[cfg(target_os = "none")]
pub mod control;
#[cfg(target_os = "none")]
pub mod cpuid;
#[cfg(target_os = "none")]
pub mod exit;
#[cfg(target_os = "none")]
pub mod fpu;
#[cfg(target_os = "none")]
pub mod instruction;
#[cfg(target_os = "none")]
pub mod interrupts;
#[cfg(target_os = "none")]
pub mod ioapic;
#[cfg(target_os = "none")]
pub mod linear;
#[cfg(target_os = "none")]
pub mod memory;
#[cfg(target_os = "none")]
pub mod mmio;
#[cfg(target_os = "none")]
pub mod msr;
#[cfg(target_os = "none")]
pub mod physdev;
#[cfg(target_os = "none")]
pub mod port;
#[cfg(target_os = "none")]
pub mod time;
#[cfg(target_os = "none")]
pub mod vcpu;
