//! The aarch64 backend.
#![no_std]

extern crate alloc;

pub mod gic;
pub mod vgic;
