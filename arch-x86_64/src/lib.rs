//! The x86-64 backend.
//!
//! Guests run in hardware virtualization, by AMD's SVM or Intel's VMX. What is pure (tables, decoding, the models of interrupt
//! controllers, CPUID and MSRs) builds and is tested on the host; what touches the CPU is behind `cfg(target_os = "none")`,
//! because the host is an x86-64 too.
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
pub mod calibration;
pub mod cmos;
pub mod cpuid;
pub mod domain_build;
pub mod guest;
pub mod machine_check;
pub mod microcode;
pub mod mm;
pub mod msr;
pub mod pci;
pub mod permission;
pub mod pirq;
pub mod pmtimer;
pub mod pv;
pub mod speculation;
pub mod svm;
pub mod tsc_sync;
pub mod vioapic;
pub mod vlapic;
pub mod vmx;

#[cfg(target_os = "none")]
pub mod apic;
#[cfg(target_os = "none")]
pub mod console;
#[cfg(target_os = "none")]
pub mod cpu;
#[cfg(target_os = "none")]
pub mod hal;
#[cfg(target_os = "none")]
pub mod ioapic;
#[cfg(target_os = "none")]
pub mod irq;
#[cfg(target_os = "none")]
pub mod machine;
#[cfg(target_os = "none")]
pub mod power;
#[cfg(target_os = "none")]
pub mod timer;

#[cfg(target_os = "none")]
pub use hal::X86_64;
