//! Calls of the supervisor binary interface. RISC-V SBI specification 2.0.

use core::arch::asm;

/// Extension numbers.
#[allow(missing_docs)]
pub mod extension {
    pub const LEGACY_PUTCHAR: u64 = 0x01;
    pub const BASE: u64 = 0x10;
    pub const TIME: u64 = 0x5449_4d45;
    pub const IPI: u64 = 0x73_5049;
    pub const RFENCE: u64 = 0x5246_4e43;
    pub const HSM: u64 = 0x48_534d;
    pub const SRST: u64 = 0x5352_5354;
    pub const DBCN: u64 = 0x4442_434e;
    /// The first number that is the hypervisor's own: Xen's is `XEN`.
    pub const FIRMWARE: u64 = 0x0a00_0000;
    pub const XEN: u64 = 0x0a00_0007;
}

/// Functions of the base extension.
#[allow(missing_docs)]
pub mod base {
    pub const SPEC_VERSION: u64 = 0;
    pub const IMPLEMENTATION: u64 = 1;
    pub const IMPLEMENTATION_VERSION: u64 = 2;
    pub const PROBE: u64 = 3;
    pub const VENDOR: u64 = 4;
    pub const ARCHITECTURE: u64 = 5;
    pub const MACHINE: u64 = 6;
}

/// Functions of hart state management, and states.
#[allow(missing_docs)]
pub mod hsm {
    pub const START: u64 = 0;
    pub const STOP: u64 = 1;
    pub const STATUS: u64 = 2;
    pub const SUSPEND: u64 = 3;

    pub const STARTED: i64 = 0;
    pub const STOPPED: i64 = 1;
}

/// Functions of remote fences.
#[allow(missing_docs)]
pub mod rfence {
    pub const FENCE_I: u64 = 0;
    pub const SFENCE_VMA: u64 = 1;
    pub const SFENCE_VMA_ASID: u64 = 2;
    pub const HFENCE_GVMA: u64 = 4;
    pub const HFENCE_VVMA: u64 = 6;
}

/// Errors.
#[allow(missing_docs)]
pub mod error {
    pub const SUCCESS: i64 = 0;
    pub const FAILED: i64 = -1;
    pub const NOT_SUPPORTED: i64 = -2;
    pub const INVALID_PARAM: i64 = -3;
    pub const DENIED: i64 = -4;
    pub const INVALID_ADDRESS: i64 = -5;
    pub const ALREADY_AVAILABLE: i64 = -6;
    pub const ALREADY_STARTED: i64 = -7;
    pub const ALREADY_STOPPED: i64 = -8;
}

/// Xen's number among the implementations of this interface.
const XEN: i64 = 7;

/// What a call answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// One of `error`.
    pub error: i64,
    /// Of meaning where there is no error.
    pub value: i64,
}

/// Calls the firmware, or the hypervisor in its place.
///
/// Declared safe as `hypercall` is: what a call may write is what its arguments name.
pub fn call(extension: u64, function: u64, args: [u64; 5]) -> Answer {
    let (error, value): (i64, i64);
    // SAFETY: the calling convention of the SBI: a0 and a1 change, nothing else.
    unsafe {
        asm!("ecall", inout("a0") args[0] => error, inout("a1") args[1] => value, in("a2") args[2],
             in("a3") args[3], in("a4") args[4], in("a6") function, in("a7") extension)
    };
    Answer { error, value }
}

/// A call with up to three arguments whose error is all that counts.
pub fn error_of(extension: u64, function: u64, args: [u64; 3]) -> i64 {
    call(extension, function, [args[0], args[1], args[2], 0, 0]).error
}

/// Whether the firmware has an extension.
pub fn has(extension: u64) -> bool {
    let answer = call(extension::BASE, base::PROBE, [extension, 0, 0, 0, 0]);
    answer.error == error::SUCCESS && answer.value != 0
}

/// Whether this is a machine without a hypervisor that speaks the Xen ABI: the cases of the firmware interface and of the
/// CPU run there too, and say what the hypervisor should.
pub fn is_bare() -> bool {
    let answer = call(extension::BASE, base::IMPLEMENTATION, [0; 5]);
    answer.error != error::SUCCESS || answer.value != XEN
}

/// Writes to the firmware's console.
pub(super) fn write(bytes: &[u8]) {
    if has(extension::DBCN) {
        call(
            extension::DBCN,
            0,
            [bytes.len() as u64, bytes.as_ptr() as u64, 0, 0, 0],
        );
        return;
    }
    for &byte in bytes {
        call(extension::LEGACY_PUTCHAR, 0, [u64::from(byte), 0, 0, 0, 0]);
    }
}

/// Ends a bare machine; returns where the hypercall does that.
pub fn end_bare_machine(reboots: bool) {
    if is_bare() {
        call(extension::SRST, 0, [u64::from(reboots), 0, 0, 0, 0]);
    }
}
