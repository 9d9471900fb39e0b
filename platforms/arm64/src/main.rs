//! The bootable arm64 image.
#![no_std]
#![no_main]
