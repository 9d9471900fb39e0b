//! The bootable riscv64 image.
#![no_std]
#![no_main]
