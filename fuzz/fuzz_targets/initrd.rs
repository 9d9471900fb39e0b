//! Any bytes as a ramdisk.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| xenolith_core::boot::initrd::fuzz_initrd(bytes));
