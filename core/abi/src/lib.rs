//! The Xen public ABI as plain data.
#![no_std]
#![forbid(unsafe_code)]
