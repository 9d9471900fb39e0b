//! Any bytes as the host's device tree.
#![no_main]

libfuzzer_sys::fuzz_target!(
    |bytes: &[u8]| xenolith_arch_aarch64::domain_build::fuzz_device_tree(bytes)
);
