//! Any bytes as the kernel of a PV guest.
#![no_main]

use xenolith_arch_x86_64::domain_build::pv::fuzz::fuzz_pv_kernel;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz_pv_kernel(bytes));
