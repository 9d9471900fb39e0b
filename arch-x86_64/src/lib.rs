//! The x86_64 backend.
#![no_std]
