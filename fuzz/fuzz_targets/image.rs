//! Any bytes as a kernel, plain or packed.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| xenolith_core::boot::image::fuzz_image(bytes));
