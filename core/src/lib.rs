//! The architecture-neutral hypervisor.
#![no_std]
#![forbid(unsafe_code)]
