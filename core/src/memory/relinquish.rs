//! Taking back all memory of a dying domain, in pieces.
//!
//! No vCPU of the domain runs and its account is closed, so its translation changes only here. First every mapped frame
//! loses the domain's allocation (or the reference of a foreign mapping); then, if the domain still owns something, the
//! whole frame table is searched for it (frames that a guest owns but has not mapped, and all of a paravirtual one's). Each piece ends when an
//! interrupt waits; where it stopped is in [`Relinquish`].

use xenolith_hal::{Gfn, Hal, Mfn, P2m, P2mType};

use crate::{DomainRef, Hypervisor};

/// How many frames are handled between two looks for waiting interrupts.
const BATCH: u64 = 64;

/// How far the taking back has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Relinquish {
    /// Next guest frame to look at.
    Mapped(Gfn),
    /// Next machine frame to look at.
    Unmapped(Mfn),
    /// All done; frames that others hold go with their last reference.
    Done,
}

impl Relinquish {
    pub(crate) const START: Self = Self::Mapped(Gfn(0));
}

/// What a piece came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RelinquishStep {
    /// All done.
    Done,
    /// An interrupt waits; there is more to do.
    Preempted,
}

impl<H: Hal> Hypervisor<H> {
    /// Goes on taking the domain's memory back until done or an interrupt waits.
    pub(crate) fn relinquish_memory(
        &self,
        domain: &DomainRef<H>,
        at: &mut Relinquish,
    ) -> RelinquishStep {
        loop {
            match *at {
                Relinquish::Mapped(gfn) => *at = self.relinquish_mapped(domain, gfn),
                Relinquish::Unmapped(mfn) => *at = self.relinquish_unmapped(domain, mfn),
                Relinquish::Done => return RelinquishStep::Done,
            }
            if *at != Relinquish::Done && self.hal.interrupt_waits() {
                return RelinquishStep::Preempted;
            }
        }
    }

    /// Handles a batch of mapped frames.
    fn relinquish_mapped(&self, domain: &DomainRef<H>, from: Gfn) -> Relinquish {
        if domain.is_pv() {
            // What it has mapped, only its page tables knew. They are gone.
            domain.p2m.release(&self.tables(domain));
            return self.first_unmapped(domain);
        }
        let (mut from, mut handled) = (from, 0);
        while handled < BATCH {
            let Some((gfn, entry, left)) = domain.p2m.next_mapped(from) else {
                domain.p2m.release(&self.tables(domain));
                return self.first_unmapped(domain);
            };
            let frames = match entry.kind {
                P2mType::RamRw | P2mType::RamRo => {
                    let frames = left.min(BATCH - handled);
                    for n in 0..frames {
                        self.drop_allocation(domain, entry.mfn.plus(n));
                    }
                    handled += frames;
                    frames
                }
                P2mType::ForeignRw | P2mType::ForeignRo => {
                    self.unmap_foreign(domain, gfn, (entry.mfn, entry.kind));
                    handled += 1;
                    1
                }
                // Grants were revoked before, shared frames go with their table, devices are nobody's.
                P2mType::MmioDirect | P2mType::GrantRw | P2mType::GrantRo | P2mType::XenShared => {
                    handled += 1;
                    left
                }
            };
            from = gfn.plus(frames);
        }
        Relinquish::Mapped(from)
    }

    /// Where the search of the frame table begins, if something is left to be found.
    fn first_unmapped(&self, domain: &DomainRef<H>) -> Relinquish {
        match self.memory.table().banks().first() {
            Some(bank) if !domain.memory.is_empty() => Relinquish::Unmapped(bank.first),
            _ => Relinquish::Done,
        }
    }

    /// Takes a foreign mapping away and lets its frame go; false when it is not there any more.
    pub(crate) fn unmap_foreign(
        &self,
        domain: &DomainRef<H>,
        gfn: Gfn,
        mapping: (Mfn, P2mType),
    ) -> bool {
        // Foreign frames are mapped one by one, so no block is split and no table needed.
        let removed = domain.p2m.remove_if(gfn, mapping, &self.tables(domain));
        if removed == Ok(true) {
            self.put_foreign(mapping.0, mapping.1);
        }
        removed == Ok(true)
    }

    /// Handles a batch of frames of the frame table.
    fn relinquish_unmapped(&self, domain: &DomainRef<H>, from: Mfn) -> Relinquish {
        for bank in self.memory.table().banks() {
            if from >= bank.end() {
                continue;
            }
            let from = from.max(bank.first);
            // Looking is cheaper than giving back.
            let to = from.plus(BATCH * 16).min(bank.end());
            for mfn in (from.0..to.0).map(Mfn) {
                if self.owned_record(mfn, domain.id()).is_some() {
                    self.drop_allocation(domain, mfn);
                }
            }
            return if domain.memory.is_empty() {
                Relinquish::Done
            } else {
                Relinquish::Unmapped(to)
            };
        }
        Relinquish::Done
    }
}
