//! The ARMv8 backend: EL2 without VHE, stage 2, virtual GIC, PSCI.
//!
//! VHE is not used where the CPU has it: it serves hypervisors that run a host kernel with user programs at EL2. This
//! one has none, and one way to run on every ARMv8 CPU is easier to trust.
//!
//! What is pure (decoding, tables over abstract memory, the interrupt model) builds and is tested on the host; what
//! touches the CPU is behind `cfg(target_arch = "aarch64")`.
#![no_std]
#![allow(
    unsafe_code,
    reason = "an architecture backend is where unsafe lives; each block says why it is sound"
)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod domain_build;
pub mod gic;
pub mod guest;
pub mod mm;
pub mod vgic;

#[cfg(target_arch = "aarch64")]
pub mod boot;
#[cfg(target_arch = "aarch64")]
pub mod console;
pub mod cpu;
#[cfg(target_arch = "aarch64")]
pub mod hal;
#[cfg(target_arch = "aarch64")]
pub mod irq;
#[cfg(target_arch = "aarch64")]
pub mod smccc;
#[cfg(target_arch = "aarch64")]
pub mod timer;

#[cfg(target_arch = "aarch64")]
pub use hal::Aarch64;
pub use xenolith_drivers::UartKind;
