//! Where the scheduler and event channels meet.

use core::sync::atomic::Ordering::SeqCst;

use xenolith_abi::virq::Virq;
use xenolith_hal::Hal;

use super::{flag, state::ANY_PORT};
use crate::{DomainRef, Hypervisor, VcpuRef};

impl<H: Hal> Hypervisor<H> {
    /// A port of the domain became pending: wakes vCPUs that poll it. Called after the pending bit was set.
    #[inline]
    pub fn wake_pollers(&self, domain: &DomainRef<H>, port: u32) {
        if domain.sched.pollers.load(SeqCst) != 0 {
            self.look_for_pollers(domain, port);
        }
    }

    #[cold]
    fn look_for_pollers(&self, domain: &DomainRef<H>, port: u32) {
        for vcpu in VcpuRef::all(domain) {
            let polled = vcpu.sched.poll_port.load(SeqCst);
            if vcpu.sched.flags() & flag::POLLING != 0 && (polled == port || polled == ANY_PORT) {
                self.wake(&vcpu);
            }
        }
    }

    /// Sends the timer virtual interrupt.
    pub(crate) fn send_timer_virq(&self, vcpu: &VcpuRef<H>) {
        self.send_guest_vcpu_virq(vcpu.domain(), vcpu, Virq::Timer);
    }

    /// A watchdog of the domain was not fed in time.
    pub(crate) fn watchdog_expired(&self, vcpu: &VcpuRef<H>) {
        let _ = vcpu;
    }
}
