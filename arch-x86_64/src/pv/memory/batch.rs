//! Hypercalls with a list of requests: how far they came, and how they go on.
//!
//! A call that an interrupt stops is re-issued by the guest for the requests that are left, with a mark in their number; the
//! count of those that are done, which the guest reads, then goes on from what it says. A call whose requests are done but
//! that left tables to be undone is re-issued without requests, with its result in the place of the domain.

use xenolith_core::{DomId, Errno, guest::Caller, hypercall::Outcome};
use xenolith_hal::{GuestVirt, Hal};

use super::{AddressSpace, Machine, PageTables, Stop, is_guest_address};

/// In the number of requests: the call goes on.
const GOES_ON: u32 = 1 << 31;

/// Whether a call has one request, about the caller itself, and nothing is left of earlier ones.
#[inline(always)]
pub(super) fn is_single(args: [u64; 5], space: &AddressSpace) -> bool {
    let [at, count, _, foreign, _] = args;
    let own = foreign as u32 == u32::from(DomId::SELF.0);
    count as u32 == 1 && own && is_guest_address(at) && !space.has_leaving()
}

/// A list of requests.
pub(super) struct Batch {
    /// The first that is not done.
    pub(super) at: GuestVirt,
    /// How many there are from there on.
    pub(super) count: u32,
    done_at: u64,
    before: u32,
    foreign: u64,
}

impl Batch {
    /// The list that a call's arguments say. `Err`: the call has no list any more, only tables to undo, and this result; or
    /// the list is where no guest's memory is.
    #[inline(always)]
    pub(super) fn open<H: Hal>(caller: Caller<'_, H>, args: [u64; 5]) -> Result<Self, i64> {
        let [at, count, done_at, foreign, _] = args;
        let mut batch = Self {
            at: GuestVirt(at),
            count: count as u32,
            done_at,
            before: 0,
            foreign,
        };
        if batch.count & GOES_ON != 0 {
            batch.go_on(caller)?;
        }
        match is_guest_address(at) {
            true => Ok(batch),
            false => Err(Errno::EFAULT.neg_i32().into()),
        }
    }

    #[cold]
    #[inline(never)]
    fn go_on<H: Hal>(&mut self, caller: Caller<'_, H>) -> Result<(), i64> {
        if self.at.0 == 0 && self.count == GOES_ON {
            return Err((self.foreign as u32).cast_signed().into());
        }
        self.count &= !GOES_ON;
        if self.done_at != 0 {
            self.before = caller.read(GuestVirt(self.done_at)).unwrap_or(0);
        }
        Ok(())
    }

    /// The guest is to ask for the rest.
    #[cold]
    #[inline(never)]
    fn again(&self, done: u32, size: usize) -> Outcome {
        let left = self.count.saturating_sub(done) | GOES_ON;
        let at = self.at.plus(u64::from(done).wrapping_mul(size as u64));
        Outcome::Again([at.0, left.into(), self.done_at, self.foreign, 0])
    }
}

impl<H: Hal, M: Machine<H>> PageTables<'_, H, M> {
    /// Ends the call, or this part of it. `size`: bytes of a request.
    #[inline(always)]
    pub(super) fn close(
        self,
        caller: Caller<'_, H>,
        batch: &Batch,
        size: usize,
        done: u32,
        result: Result<(), Stop>,
    ) -> Outcome {
        if batch.done_at != 0 {
            let count = batch.before.wrapping_add(done);
            // A count that cannot be told changes nothing of what was done.
            let _ = self
                .machine
                .write_count(caller, GuestVirt(batch.done_at), count);
        }
        match result {
            Ok(()) => Outcome::Done(0),
            Err(Stop::Failed(errno)) => errno.into(),
            Err(Stop::Preempted) => batch.again(done, size),
        }
    }

    /// Ends a call whose one request ([`is_single`]) is done.
    #[inline(always)]
    pub(super) fn after_one(
        self,
        caller: Caller<'_, H>,
        space: &AddressSpace,
        [_, _, done_at, ..]: [u64; 5],
    ) -> Outcome {
        if done_at != 0 {
            // A count that cannot be told changes nothing of what was done.
            let _ = self.machine.write_count(caller, GuestVirt(done_at), 1);
        }
        match space.has_leaving() {
            false => Outcome::Done(0),
            true => self.finish_with(space, 0),
        }
    }

    /// Undoes what requests left before the guest gets their result.
    #[inline(always)]
    pub(super) fn after(self, space: &AddressSpace, outcome: Outcome) -> Outcome {
        match (space.has_leaving(), &outcome) {
            (true, Outcome::Done(result)) => self.finish_with(space, *result),
            _ => outcome,
        }
    }

    /// Undoes what requests left; then `result`.
    #[cold]
    #[inline(never)]
    pub(super) fn finish_with(self, space: &AddressSpace, result: i64) -> Outcome {
        match self.finish_leaving(space) {
            Ok(()) => Outcome::Done(result),
            Err(_) => {
                let result = (result as u32).into();
                Outcome::Again([0, GOES_ON.into(), 0, result, 0])
            }
        }
    }
}
