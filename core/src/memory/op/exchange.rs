//! `XENMEM_exchange`: frames of a paravirtual domain for others.

use alloc::vec::Vec;

use xenolith_abi::{
    memory::{Exchange, Reservation},
    narrow::Long,
};
use xenolith_hal::{Gfn, GuestVirt, Hal, Mfn};

use super::Call;
use crate::{
    DomainRef, Errno,
    hypercall::Outcome,
    memory::{MAX_ORDER, exchange::Chunk},
};

/// How the two lists fall into chunks: so many extents of each.
struct Chunks {
    given: u64,
    wanted: u64,
}

impl Chunks {
    fn of(exchange: &Exchange) -> Self {
        let (given, wanted) = (exchange.input.extent_order, exchange.output.extent_order);
        Self {
            given: 1 << wanted.saturating_sub(given),
            wanted: 1 << given.saturating_sub(wanted),
        }
    }
}

impl<H: Hal> Call<'_, H> {
    /// Serves the call. It is done over again with the number of extents that are done in its argument.
    pub(super) fn exchange(&self) -> Outcome {
        match self.exchange_some() {
            Ok(outcome) => outcome,
            Err(errno) => errno.into(),
        }
    }

    fn exchange_some(&self) -> Result<Outcome, Errno> {
        let mut wanted = self.caller.read::<Exchange>(self.arg)?;
        self.check_exchange(&wanted)?;
        let domain = self.target(wanted.input.domid)?;
        if wanted.nr_exchanged == wanted.input.nr_extents {
            return Ok(Outcome::Done(0));
        }
        // The frames of a translated guest cannot be taken from it.
        if !domain.is_pv() {
            return Err(Errno::EINVAL);
        }
        let _in_use = domain.memory.enter().ok_or(Errno::ESRCH)?;
        let chunks = Chunks::of(&wanted);
        let first = wanted.nr_exchanged / chunks.given;
        let end = wanted.input.nr_extents / chunks.given;
        for n in first..end {
            wanted.nr_exchanged = n * chunks.given;
            if n != first && self.preempted() {
                self.caller.write(self.arg, &wanted)?;
                return Ok(Outcome::Again([self.cmd, self.arg.0, 0, 0, 0]));
            }
            if let Err(errno) = self.exchange_chunk(&domain, &wanted, &chunks, n) {
                self.caller.write(self.arg, &wanted)?;
                return Err(errno);
            }
        }
        wanted.nr_exchanged = wanted.input.nr_extents;
        self.caller.write(self.arg, &wanted)?;
        Ok(Outcome::Done(0))
    }

    fn check_exchange(&self, wanted: &Exchange) -> Result<(), Errno> {
        let (give, get) = (&wanted.input, &wanted.output);
        if give.extent_order.max(get.extent_order) > self.max_order() {
            return Err(Errno::EPERM);
        }
        let frames = |r: &Reservation| {
            let shift = r.extent_order;
            (shift <= MAX_ORDER && r.nr_extents <= u64::MAX >> shift)
                .then(|| r.nr_extents << shift)
                .ok_or(Errno::EINVAL)
        };
        if wanted.nr_exchanged > give.nr_extents
            || give.domid != get.domid
            || frames(give)? != frames(get)?
        {
            return Err(Errno::EINVAL);
        }
        Ok(())
    }

    /// Exchanges the `n`-th chunk and tells the caller what it got.
    fn exchange_chunk(
        &self,
        domain: &DomainRef<H>,
        wanted: &Exchange,
        chunks: &Chunks,
        n: u64,
    ) -> Result<(), Errno> {
        let (give, get) = (&wanted.input, &wanted.output);
        let chunk = Chunk {
            given: self.list(give, (n * chunks.given, chunks.given), Mfn)?,
            given_order: give.extent_order,
            wanted: chunks.wanted as usize,
            wanted_order: get.extent_order,
            place: self.place(get.mem_flags).ok_or(Errno::ENOMEM)?,
        };
        // Read before anything changes: afterwards nothing may fail.
        let pfns = self.list(get, (n * chunks.wanted, chunks.wanted), Gfn)?;
        let hv = self.caller.hv;
        let fresh = hv.exchange_chunk(domain, &chunk)?;
        let list = GuestVirt(get.extent_start.address());
        let mut told = Ok(());
        for ((mfn, pfn), at) in fresh.iter().zip(pfns).zip(n * chunks.wanted..) {
            hv.note_pfns(*mfn, pfn, get.extent_order);
            told = told.and(self.caller.write_at(list, at, &Long(mfn.0)));
        }
        told
    }

    /// Frame numbers out of a list of the caller.
    fn list<T>(
        &self,
        of: &Reservation,
        (first, count): (u64, u64),
        frame: impl Fn(u64) -> T,
    ) -> Result<Vec<T>, Errno> {
        let mut list = Vec::new();
        list.try_reserve_exact(count as usize)
            .map_err(|_| Errno::ENOMEM)?;
        let start = GuestVirt(of.extent_start.address());
        for at in first..first.saturating_add(count) {
            let Long(number) = self.caller.read_at(start, at)?;
            list.push(frame(number));
        }
        Ok(list)
    }
}
