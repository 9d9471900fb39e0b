//! The aarch64 backend.
#![no_std]
