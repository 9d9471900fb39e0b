//! `multicall`: a list of calls in one.

use crate::arch::hypercall;
use crate::xen::nr;

/// `multicall_entry`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Which call.
    pub number: u64,
    /// Its result, or [`UNTOUCHED`] before.
    pub result: i64,
    /// What it is called with.
    pub args: [u64; 6],
}

/// A result that no call gives.
pub const UNTOUCHED: i64 = 0x7777;

impl Entry {
    /// A call with two arguments; the others are zero.
    pub const fn new(number: u64, first: u64, second: u64) -> Self {
        Self {
            number,
            result: UNTOUCHED,
            args: [first, second, 0, 0, 0, 0],
        }
    }
}

/// The calls of a list at an address.
pub fn at(address: u64, count: u64) -> i64 {
    hypercall(nr::MULTICALL, [address, count, 0, 0, 0])
}

/// The calls of a list.
pub fn list(entries: &mut [Entry]) -> i64 {
    at(entries.as_mut_ptr() as u64, entries.len() as u64)
}
