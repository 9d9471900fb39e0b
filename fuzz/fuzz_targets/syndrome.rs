//! Any words as ESR_EL2.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| xenolith_arch_aarch64::guest::esr::fuzz_syndrome(bytes));
