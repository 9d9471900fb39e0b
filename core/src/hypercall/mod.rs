//! Hypercalls: one table, one row per number.

use crate::Errno;

/// What a hypercall leaves in the caller's registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The call is over with this result (negative: an error number).
    Done(i64),
    /// The call has more to do: the guest re-issues it with these arguments after pending work was looked at.
    Again([u64; 5]),
}

impl From<Result<i64, Errno>> for Outcome {
    fn from(result: Result<i64, Errno>) -> Self {
        Self::Done(match result {
            Ok(value) => value,
            Err(errno) => errno.neg() as i64,
        })
    }
}
