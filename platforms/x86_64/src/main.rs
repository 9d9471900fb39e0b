//! The bootable x86_64 image.
#![no_std]
#![no_main]
