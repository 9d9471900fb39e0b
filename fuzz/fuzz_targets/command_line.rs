//! Any bytes as the command line.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| xenolith_core::boot::cmdline::fuzz_command_line(bytes));
