//! Several hypercalls in one.
//!
//! Header: `xen.h`. The call takes an array and its length; each element gets its own result.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// One call of a `multicall` (`multicall_entry`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MulticallEntry {
    /// In: a number of [`Nr`](crate::Nr).
    pub op: u64,
    /// Out: the result of that call.
    pub result: u64,
    /// In: its arguments.
    pub args: [u64; 6],
}
