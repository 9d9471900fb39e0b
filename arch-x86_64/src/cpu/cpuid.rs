//! What this CPU says of itself.

use core::arch::x86_64::{__cpuid_count, CpuidResult};

/// Executes CPUID.
#[must_use]
pub fn cpuid(leaf: u32, subleaf: u32) -> CpuidResult {
    #[allow(unused_unsafe, reason = "newer compilers know that it is safe")]
    // SAFETY: every CPU with long mode has the instruction, and it changes nothing.
    unsafe {
        __cpuid_count(leaf, subleaf)
    }
}
