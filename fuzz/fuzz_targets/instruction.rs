//! Any words as instructions that trapped without a valid syndrome.
#![no_main]

libfuzzer_sys::fuzz_target!(
    |bytes: &[u8]| xenolith_arch_aarch64::guest::decode::fuzz_instruction(bytes)
);
