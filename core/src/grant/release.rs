//! The end of a domain's grants: what it mapped is undone, its table goes. What others mapped of it stays theirs until
//! they undo it; the pins hold the frames.

use core::sync::atomic::Ordering::Relaxed;

use xenolith_hal::Hal;

use crate::{DomainRef, Hypervisor, memory::Charge};

/// How many handles are looked at between two looks at waiting interrupts.
const BATCH: u32 = 64;

/// Whether a release came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Released {
    /// Everything is given back.
    Yes,
    /// An interrupt waits; call again to go on.
    NotYet,
}

impl<H: Hal> Hypervisor<H> {
    /// Gives back what a dying domain has by grants and for grants. None of its vCPUs runs any more. Calling it again when
    /// it is done does nothing.
    pub fn release_grants(&self, domain: &DomainRef<H>) -> Released {
        let track = &domain.grants.maptrack;
        for handle in track.handles() {
            if let Some(mapping) = track.take(handle) {
                // When the guest has put something else there, nothing is left to take away.
                // Of a paravirtual domain the page tables are gone.
                if !domain.is_pv() {
                    let _ = self.displace_grant(domain, &mapping);
                }
                self.end_mapping(domain, handle, mapping);
            }
            if handle.0 % BATCH == BATCH - 1 && self.hal.interrupt_waits() {
                return Released::NotYet;
            }
        }
        self.release_table(domain);
        Released::Yes
    }

    fn release_table(&self, domain: &DomainRef<H>) {
        let grants = &domain.grants;
        if grants.is_closed() {
            return;
        }
        grants.close();
        for frame in grants.frames.iter().map_while(spin::Once::get) {
            self.release_shared(domain, frame.mfn);
        }
        for frame in grants.status.iter().filter_map(spin::Once::get) {
            self.release_shared(domain, frame.mfn);
        }
        let heap = grants.charged.swap(0, Relaxed);
        domain.memory.uncharge(Charge::Hypervisor, heap);
    }
}
