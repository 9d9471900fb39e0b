//! AMD's virtualization (AMD APM, volume 2, chapter 15).

pub mod asid;
#[cfg(target_os = "none")]
pub mod cpu;
#[cfg(target_os = "none")]
mod enter;
pub mod hardware;
mod hidden;
pub mod maps;
#[cfg(target_os = "none")]
pub mod vcpu;
pub mod vmcb;
