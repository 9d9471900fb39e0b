//! Where the scheduler and event channels meet.

use core::sync::atomic::Ordering::SeqCst;

use xenolith_abi::{Port, virq::Virq};
use xenolith_hal::Hal;

use super::{flag, state::ANY_PORT};
use crate::{DomainRef, Hypervisor, VcpuRef};

impl<H: Hal> Hypervisor<H> {
    /// A port of the domain became pending: wakes vCPUs that poll it. Called after the pending bit was set.
    #[inline]
    pub fn wake_pollers(&self, domain: &DomainRef<H>, port: Port) {
        if domain.sched.pollers.load(SeqCst) != 0 {
            self.look_for_pollers(domain, port);
        }
    }

    #[cold]
    fn look_for_pollers(&self, domain: &DomainRef<H>, port: Port) {
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

    /// Sends the timer virtual interrupt.
    pub(crate) fn send_timer_virq(&self, vcpu: &VcpuRef<H>) {
        self.send_guest_vcpu_virq(vcpu.domain(), vcpu, Virq::Timer);
    }
}
