//! One physical CPU: its registers, vectors, errata, per-CPU data and main loop.

pub mod errata;
#[cfg(target_arch = "aarch64")]
pub mod fault;
#[cfg(target_arch = "aarch64")]
pub mod percpu;
#[cfg(target_arch = "aarch64")]
pub mod probe;
#[cfg(target_arch = "aarch64")]
pub mod regs;
#[cfg(target_arch = "aarch64")]
pub mod run;
pub mod speculation;
#[cfg(target_arch = "aarch64")]
pub mod vectors;
