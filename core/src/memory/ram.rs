//! RAM for a domain that is made at boot: taken anywhere, in the largest pieces to be had.

use core::fmt;

use xenolith_hal::{Gfn, Hal, P2m, P2mError, P2mType};

use super::Place;
use crate::{DomainRef, Hypervisor};

/// Why a domain did not get its RAM. What it got before stays its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoRam {
    /// There is not so much memory, or the domain may not own so much.
    OutOfMemory,
    /// The second-level tables did not take it.
    NotMapped(P2mError),
}

impl fmt::Display for NoRam {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfMemory => f.write_str("memory ran out"),
            Self::NotMapped(error) => write!(f, "memory cannot be mapped: {error:?}"),
        }
    }
}

impl<H: Hal> Hypervisor<H> {
    /// Fills `count` guest frames from `first` with RAM, cleared: firmware may have left something in it. A paravirtual
    /// domain's are those of its own numbering, which the machine-to-physical table then tells.
    pub fn give_ram(&self, domain: &DomainRef<H>, first: Gfn, count: u64) -> Result<(), NoRam> {
        const LARGEST: u32 = 40;
        let end = first.0.checked_add(count).ok_or(NoRam::OutOfMemory)?;
        let mut gfn = first.0;
        while gfn < end {
            // Only as large as the guest address is aligned, so that one block maps it.
            let aligned = 1u64 << gfn.trailing_zeros().min(LARGEST);
            let (mfn, order) = self
                .allocate_largest_for(domain, (end - gfn).min(aligned), Place::ANY)
                .map_err(|_| NoRam::OutOfMemory)?;
            self.hal.zero_frames(mfn, order);
            let size = 1 << order;
            if domain.is_pv() {
                self.note_pfns(mfn, Gfn(gfn), order);
                gfn = gfn.saturating_add(size);
                continue;
            }
            domain
                .p2m
                .map(Gfn(gfn), mfn, size, P2mType::RamRw, &self.tables(domain))
                .map_err(NoRam::NotMapped)?;
            gfn = gfn.saturating_add(size);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;

    use xenolith_sim::Sim;

    use super::*;
    use crate::testing;

    #[test]
    fn every_frame_gets_ram_of_its_own_whatever_the_alignment() {
        let sim = Sim::small();
        let hv = testing::hypervisor(&sim);
        let domain = testing::domain(&hv, 1, 0);
        hv.give_ram(&domain, Gfn(3), 1000).unwrap();
        let mut seen = alloc::collections::BTreeSet::new();
        for gfn in (3..1003).map(Gfn) {
            let entry = domain.p2m.with_entry(gfn, |entry| entry).unwrap();
            assert_eq!(entry.kind, P2mType::RamRw);
            assert!(seen.insert(entry.mfn.0), "{gfn:?} shares a frame");
        }
        for gfn in [2, 1003].map(Gfn) {
            assert!(domain.p2m.with_entry(gfn, |entry| entry.is_none()));
        }
        testing::destroy(&hv, &domain);
    }

    #[test]
    fn a_domain_gets_no_more_than_there_is() {
        let sim = Sim::small();
        let hv = testing::hypervisor(&sim);
        let before = hv.memory.free_frames();
        let domain = testing::domain(&hv, 1, 0);
        let error = hv.give_ram(&domain, Gfn(0), before + 1).unwrap_err();
        assert_eq!(error, NoRam::OutOfMemory);
        assert_eq!(error.to_string(), "memory ran out");
        assert_eq!(
            hv.give_ram(&domain, Gfn(u64::MAX), 2),
            Err(NoRam::OutOfMemory)
        );
        testing::destroy(&hv, &domain);
        assert_eq!(hv.memory.free_frames(), before);
    }
}
