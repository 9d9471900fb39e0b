//! Intel's virtualization (Intel SDM, volume 3, chapters 24 to 31 and appendix A).

pub mod controls;
#[cfg(target_os = "none")]
pub mod cpu;
#[cfg(target_os = "none")]
mod enter;
pub mod event;
pub mod exit;
pub mod fields;
#[cfg(target_os = "none")]
pub mod hardware;
#[cfg(target_os = "none")]
mod instructions;
pub mod maps;
pub mod segment;
#[cfg(target_os = "none")]
pub mod vcpu;
#[cfg(target_os = "none")]
pub mod virtual_apic;
