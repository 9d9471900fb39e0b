//! From "this port has an event" to an interrupted vCPU.
//!
//! [`Backend`] is the place where the two-level ABI and a later one differ; everything above it is common. Delivery
//! takes no lock of its own: the words in guest memory are atomic. The caller sees to it that the domain's pages stay:
//! it is a vCPU of the domain, or holds the lock of a channel that is bound. A port that a domain closes while it sends
//! an IPI through it may at worst show that domain one event that nobody sent.

use xenolith_abi::Port;
use xenolith_hal::{AtomicOp::Load, Hal};

use super::two_level::{self, GuestWords, Signal};
use crate::{Domain, DomainRef, Hypervisor, Vcpu, VcpuId, VcpuRef};

/// Which ABI a domain's event bits follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Backend {
    /// Bits in the shared info.
    TwoLevel,
}

impl Backend {
    pub(super) const fn ports(self) -> u32 {
        match self {
            Self::TwoLevel => two_level::PORTS,
        }
    }

    #[inline]
    fn raise<H: Hal>(self, hal: &H, domain: &Domain<H>, vcpu: &Vcpu<H>, port: Port) -> Signal {
        match self {
            Self::TwoLevel => two_level::raise(&GuestWords::new(hal, domain, vcpu), port.0),
        }
    }

    fn unmask<H: Hal>(self, hal: &H, domain: &Domain<H>, vcpu: &Vcpu<H>, port: Port) -> Signal {
        match self {
            Self::TwoLevel => two_level::unmask(&GuestWords::new(hal, domain, vcpu), port.0),
        }
    }

    pub(super) fn is_pending<H: Hal>(self, hal: &H, domain: &Domain<H>, port: Port) -> bool {
        match self {
            Self::TwoLevel => GuestWords::of_domain(hal, domain).is_pending(port.0),
        }
    }

    pub(super) fn is_masked<H: Hal>(self, hal: &H, domain: &Domain<H>, port: Port) -> bool {
        match self {
            Self::TwoLevel => GuestWords::of_domain(hal, domain).is_masked(port.0),
        }
    }

    pub(super) fn clear_pending<H: Hal>(self, hal: &H, domain: &Domain<H>, port: Port) {
        match self {
            Self::TwoLevel => GuestWords::of_domain(hal, domain).clear(port.0),
        }
    }
}

impl<H: Hal> Hypervisor<H> {
    /// Makes a port of `domain` pending and interrupts `vcpu` if its guest is not told yet.
    #[inline]
    pub(super) fn set_pending(&self, domain: &DomainRef<H>, vcpu: VcpuId, port: Port) {
        let Some(target) = domain.vcpus.get(usize::from(vcpu.0)) else {
            return;
        };
        let signal = domain
            .events
            .backend()
            .raise(&self.hal, domain, target, port);
        if signal == Signal::Already {
            return;
        }
        self.act_on(signal, domain, vcpu);
        // A poller announces itself, then looks at the bit; the bit was set before this look. One of both sees it.
        self.wake_pollers(domain, port);
    }

    /// Takes a port's mask away and tells the vCPU what became pending under it.
    pub(super) fn unmask_port(&self, domain: &DomainRef<H>, vcpu: VcpuId, port: Port) {
        if let Some(target) = domain.vcpus.get(usize::from(vcpu.0)) {
            let backend = domain.events.backend();
            let signal = backend.unmask(&self.hal, domain, target, port);
            self.act_on(signal, domain, vcpu);
        }
    }

    #[inline]
    fn act_on(&self, signal: Signal, domain: &DomainRef<H>, vcpu: VcpuId) {
        if signal != Signal::Upcall {
            return;
        }
        if let Some(target) = VcpuRef::new(domain, vcpu) {
            self.hal.raise_upcall(&domain.arch, &target.arch);
            self.notify(&target);
        }
    }

    /// Whether the guest of a vCPU is to be told of events: its upcall byte is set and not masked.
    #[inline]
    pub fn upcall_pending(&self, vcpu: &VcpuRef<H>) -> bool {
        let Some(info) = vcpu.domain().info_area(vcpu) else {
            return false;
        };
        let layout = H::SHARED_INFO.vcpu;
        let byte = |at: usize| {
            self.hal
                .atomic8(info.mfn, info.offset + at, Load)
                .unwrap_or(0)
        };
        byte(layout.evtchn_upcall_pending) != 0
            && !(layout.has_upcall_mask && byte(layout.evtchn_upcall_mask) != 0)
    }
}
