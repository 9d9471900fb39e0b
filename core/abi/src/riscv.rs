//! The ABI as 64-bit RISC-V guests see it.
//!
//! Header: `arch-riscv.h` (Xen 4.21), which states the structures, and says nothing about calls. They are made as the RISC-V
//! port of Linux for Xen makes them: `ecall` with [`HYPERCALL_EXTENSION`] in a7, the number in a6, arguments in a1 to a5 and
//! zero in a0; the result is in a0. What is shared looks as on ARM: `arch_vcpu_info` and `arch_shared_info` are empty.

/// The SBI extension of hypercalls: the space for firmware's own calls (0x0a000000) and the number of the Xen Project among
/// implementations of the SBI.
pub const HYPERCALL_EXTENSION: u64 = 0x0a00_0007;
