//! Words of the guest's command line, `name=value`.

use crate::arch;

/// The value of word `name`, if the command line has it.
pub fn word(name: &str) -> Option<&'static str> {
    arch::command_line()
        .split_ascii_whitespace()
        .find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
}

/// The value of word `name` as a number, decimal or `0x` hexadecimal; `default` when it is not there.
pub fn number(name: &str, default: u64) -> u64 {
    let parse = |text: &str| match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    };
    word(name).and_then(parse).unwrap_or(default)
}
