//! The riscv64 backend.
#![no_std]
