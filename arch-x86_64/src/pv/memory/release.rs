//! The end of a domain: its page tables stop being such.
//!
//! No vCPU of it runs and no foreign request is at work on its tables (those hold its memory in use). First the roots and the
//! leftovers of each vCPU go, then every pin. With those, all its tables are undone, since nothing else holds a root: what
//! an entry holds goes with the table. It stops when an interrupt waits; the place where it goes on is the caller's to keep.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use xenolith_core::{Domain, DomainRef, VcpuId, VcpuRef};
use xenolith_hal::{Hal, Mfn};

use super::{AddressSpace, Machine, PageTables};

/// How many records are looked at between two looks for interrupts.
const BATCH: u64 = 1024;

impl<H: Hal, M: Machine<H>> PageTables<'_, H, M> {
    /// Goes on releasing the tables of a domain; `at` is zero at first. False when an interrupt waits.
    #[must_use]
    pub fn release_domain(self, domain: &DomainRef<H>, at: &AtomicU64) -> bool {
        let Some(first) = VcpuRef::new(domain, VcpuId(0)) else {
            return true;
        };
        let work = self.machine.address_space(&first);
        for vcpu in VcpuRef::all(domain) {
            let space = self.machine.address_space(&vcpu);
            // Each call gets further, however many interrupts there are.
            if space.held().next().is_none() {
                continue;
            }
            if !self.release_space(space) || self.hv.hal.interrupt_waits() {
                return false;
            }
        }
        self.unpin_all(domain, at, work)
    }

    /// Drops the roots and leftovers of a vCPU. False when an interrupt waits.
    #[must_use]
    pub fn release_space(self, space: &AddressSpace) -> bool {
        while self.finish_leaving(space).is_ok() {
            let held = if let Some(wanted) = space.wanted() {
                space.set_wanted(None);
                wanted
            } else if let Some(root) = space.user() {
                space.set_user(None);
                root
            } else if let Some(root) = space.kernel() {
                space.set_kernel(None);
                root
            } else {
                return true;
            };
            if let Some(record) = self.hv.memory.record(held) {
                self.let_go(record, held, space);
            }
        }
        false
    }

    fn unpin_all(self, domain: &Domain<H>, at: &AtomicU64, work: &AddressSpace) -> bool {
        for bank in self.hv.memory.table().banks() {
            let mut next = at.load(Relaxed).max(bank.first.0);
            while next < bank.end().0 {
                let to = next.saturating_add(BATCH).min(bank.end().0);
                for mfn in (next..to).map(Mfn) {
                    if !self.unpin_if_of(mfn, domain, work) {
                        at.store(mfn.0, Relaxed);
                        return false;
                    }
                }
                next = to;
                at.store(next, Relaxed);
                if self.hv.hal.interrupt_waits() {
                    return false;
                }
            }
        }
        true
    }

    fn unpin_if_of(self, mfn: Mfn, domain: &Domain<H>, work: &AddressSpace) -> bool {
        let Some(record) = self.hv.memory.record(mfn) else {
            return true;
        };
        // Who owns it keeps it pinned, so nobody else can have it by now.
        if record.state().is_owned_by(domain.id()) && record.is_pinned() && record.unpin() {
            self.let_go(record, mfn, work);
        }
        self.finish_leaving(work).is_ok()
    }
}
