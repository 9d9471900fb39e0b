//! The RISC-V backend: HS-mode on OpenSBI or another SBI firmware.
//!
//! So far it comes up as far as the core reaches without a guest: page tables, memory, all CPUs. What is pure (page-table
//! entries) builds and is tested on the host; what touches the CPU is behind `cfg(target_arch = "riscv64")`.
#![no_std]
#![allow(
    unsafe_code,
    reason = "an architecture backend is where unsafe lives; each block says why it is sound"
)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod mm;

#[cfg(target_arch = "riscv64")]
pub mod boot;
#[cfg(target_arch = "riscv64")]
pub mod console;
#[cfg(target_arch = "riscv64")]
pub mod cpu;
#[cfg(target_arch = "riscv64")]
pub mod hal;
#[cfg(target_arch = "riscv64")]
pub mod sbi;
#[cfg(target_arch = "riscv64")]
pub mod timer;

#[cfg(target_arch = "riscv64")]
pub use hal::Riscv64;
