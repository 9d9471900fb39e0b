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

/// stub
pub fn dispatch<H: xenolith_hal::Hal>(
    caller: crate::guest::Caller<'_, H>,
    nr: u64,
    args: [u64; 5],
) -> Outcome {
    use xenolith_hal::GuestVirt;
    match nr {
        12 => crate::memory::op::memory_op(caller, args[0], GuestVirt(args[1])),
        17 => Outcome::Done(if args[0] == 0 { 0x40011 } else { -38 }),
        18 if args[0] == 0 => {
            let mut buf = [0u8; 256];
            let n = (args[1] as usize).min(256);
            if caller
                .read_bytes(GuestVirt(args[2]), &mut buf[..n])
                .is_err()
            {
                return Outcome::Done(-14);
            }
            caller.hv.hal.console_write(&buf[..n]);
            Outcome::Done(0)
        }
        24 => Outcome::from(crate::vcpu_op::vcpu_op(
            caller,
            args[0] as u32,
            args[1] as u32,
            GuestVirt(args[2]),
        )),
        29 => Outcome::from(crate::sched::sched_op(
            caller,
            args[0] as u32,
            GuestVirt(args[1]),
        )),
        32 => Outcome::from(crate::event::event_channel_op(
            caller,
            args[0],
            GuestVirt(args[1]),
        )),
        _ => Outcome::Done(-38),
    }
}
