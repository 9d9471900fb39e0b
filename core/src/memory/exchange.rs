//! Exchanging frames of a paravirtual domain for others: for contiguous ones, or for such as a device can reach.
//!
//! Frames go in chunks, of which each is exchanged whole or not at all. A frame that is to go must be the domain's memory
//! with no other use: not mapped, not a page table, not granted. What the domain owns stays as much as it was.

use alloc::vec::Vec;

use xenolith_hal::{Hal, Mfn, NoMemory, Order};

use super::{Charge, FrameState, Place};
use crate::{DomainRef, Errno, Hypervisor};

/// A chunk: what goes, and what is to come in its place.
pub(super) struct Chunk {
    /// First frames of the extents that go.
    pub(super) given: Vec<Mfn>,
    /// Of these extents.
    pub(super) given_order: Order,
    /// How many extents come.
    pub(super) wanted: usize,
    /// Of these.
    pub(super) wanted_order: Order,
    /// And where from.
    pub(super) place: Place,
}

impl Chunk {
    /// Every frame that goes.
    fn frames(&self) -> impl Iterator<Item = Mfn> {
        let each = 1 << self.given_order;
        self.given
            .iter()
            .flat_map(move |first| (0..each).map(|n| first.plus(n)))
    }
}

/// Whether a frame has no use but that its domain owns it.
fn is_idle(state: FrameState) -> bool {
    state.allocated()
        && state.count() == 1
        && state.type_count() == 0
        && state.charge() == Charge::Memory
}

impl<H: Hal> Hypervisor<H> {
    /// Exchanges one chunk; gives the first frames of what came, cleared. They are nobody's in the machine-to-physical
    /// table.
    ///
    /// `EINVAL` when some frame cannot go, `ENOMEM` when there is nothing for it.
    pub(super) fn exchange_chunk(
        &self,
        domain: &DomainRef<H>,
        chunk: &Chunk,
    ) -> Result<Vec<Mfn>, Errno> {
        let goes = |mfn| {
            self.owned_record(mfn, domain.id())
                .is_some_and(|record| is_idle(record.state()))
        };
        if !chunk.frames().all(goes) {
            return Err(Errno::EINVAL);
        }
        let fresh = self.take_fresh(chunk).map_err(|_| Errno::ENOMEM)?;
        let taken = chunk
            .frames()
            .take_while(|mfn| {
                self.memory
                    .record(*mfn)
                    .is_some_and(|r| r.take_idle(domain.id()))
            })
            .count() as u64;
        if taken != (chunk.given.len() as u64) << chunk.given_order {
            // It came into use meanwhile. What was taken is given back.
            for mfn in chunk.frames().take(taken as usize) {
                self.set_owner(domain.id(), mfn, 1, Charge::Memory);
            }
            self.free_fresh(chunk, &fresh);
            return Err(Errno::EINVAL);
        }
        for mfn in chunk.frames() {
            self.forget_machine_frame(mfn, domain.id());
            self.hal.zero_frames(mfn, 0);
            self.memory.free(mfn, 0);
        }
        for first in &fresh {
            self.hal.zero_frames(*first, chunk.wanted_order);
            let frames = 1 << chunk.wanted_order;
            self.set_owner(domain.id(), *first, frames, Charge::Memory);
        }
        Ok(fresh)
    }

    fn take_fresh(&self, chunk: &Chunk) -> Result<Vec<Mfn>, NoMemory> {
        let mut fresh = Vec::new();
        fresh
            .try_reserve_exact(chunk.wanted)
            .map_err(|_| NoMemory)?;
        while fresh.len() < chunk.wanted {
            match self.memory.allocate(chunk.wanted_order, chunk.place) {
                Some(mfn) => fresh.push(mfn),
                None => {
                    self.free_fresh(chunk, &fresh);
                    return Err(NoMemory);
                }
            }
        }
        Ok(fresh)
    }

    fn free_fresh(&self, chunk: &Chunk, fresh: &[Mfn]) {
        for mfn in fresh {
            self.memory.free(*mfn, chunk.wanted_order);
        }
    }
}
