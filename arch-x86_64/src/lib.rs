//! The x86-64 backend.
//!
//! So far it comes up as far as the core reaches without a guest: page tables, memory, all CPUs. What is pure (page-table
//! entries, boot loaders' memory maps, ACPI tables) builds and is tested on the host; what touches the CPU is behind
//! `cfg(target_os = "none")`, because the host is an x86-64 too.
#![no_std]
#![allow(
    unsafe_code,
    reason = "an architecture backend is where unsafe lives; each block says why it is sound"
)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod acpi;
pub mod boot;
pub mod domain_build;
pub mod mm;

#[cfg(target_os = "none")]
pub mod apic;
#[cfg(target_os = "none")]
pub mod console;
#[cfg(target_os = "none")]
pub mod cpu;
#[cfg(target_os = "none")]
pub mod hal;
#[cfg(target_os = "none")]
pub mod power;
#[cfg(target_os = "none")]
pub mod timer;

#[cfg(target_os = "none")]
pub use hal::X86_64;
