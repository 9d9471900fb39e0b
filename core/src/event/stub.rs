//! Stand-ins until the scheduler and the memory manager provide these.
use crate::{DomainRef, Hypervisor, VcpuRef};
use xenolith_abi::{Errno, Port};
use xenolith_hal::{Gfn, Hal, Mfn, P2m, P2mType};

impl<H: Hal> Hypervisor<H> {
    /// Wakes or kicks.
    pub fn notify(&self, _vcpu: &VcpuRef<H>) {}
    /// Wakes pollers.
    pub fn poll_check(&self, _domain: &DomainRef<H>, _port: Port) {}
    pub(super) fn pin_own_frame(&self, domain: &DomainRef<H>, gfn: Gfn) -> Result<Mfn, Errno> {
        domain
            .p2m
            .lookup(gfn)
            .filter(|e| e.kind == P2mType::RamRw)
            .map(|e| e.mfn)
            .ok_or(Errno::EINVAL)
    }
    pub(super) fn unpin_own_frame(&self, _domain: &DomainRef<H>, _mfn: Mfn) {}
}
