//! The RISC-V backend: HS-mode on OpenSBI or another SBI firmware.
//!
//! It runs the domains that the device tree describes, in VS-mode. What is pure (page-table entries, decoding of traps and
//! instructions, the guests' interrupt controller and device tree) builds and is tested on the host; what touches the CPU is
//! behind `cfg(target_arch = "riscv64")`.
#![no_std]
#![allow(
    unsafe_code,
    reason = "an architecture backend is where unsafe lives; each block says why it is sound"
)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod domain_build;
pub mod guest;
pub mod mm;
pub mod vplic;

#[cfg(target_arch = "riscv64")]
pub mod boot;
#[cfg(target_arch = "riscv64")]
pub mod console;
#[cfg(target_arch = "riscv64")]
pub mod cpu;
#[cfg(target_arch = "riscv64")]
pub mod hal;
#[cfg(target_arch = "riscv64")]
pub mod plic;
#[cfg(target_arch = "riscv64")]
pub mod sbi;
#[cfg(target_arch = "riscv64")]
pub mod timer;

#[cfg(target_arch = "riscv64")]
pub use hal::Riscv64;
