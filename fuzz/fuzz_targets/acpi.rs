//! Any bytes as an ACPI table.
#![no_main]

libfuzzer_sys::fuzz_target!(
    |bytes: &[u8]| xenolith_arch_x86_64::domain_build::acpi_tables::fuzz_acpi(bytes)
);
