//! Virtual interrupts: events that the hypervisor raises.

use core::sync::atomic::{
    AtomicU32,
    Ordering::{AcqRel, Acquire, Relaxed},
};

use xenolith_abi::{
    Port,
    virq::{NR_VIRQS, Virq},
};
use xenolith_hal::Hal;

use super::channel::Binding;
use crate::{DomId, DomainRef, Hypervisor, Vcpu};

/// The port of each VIRQ of a vCPU; 0 for none. Global VIRQs stand in those of vCPU 0.
pub struct VirqPorts([AtomicU32; NR_VIRQS as usize]);

impl VirqPorts {
    /// Nothing bound.
    pub const fn new() -> Self {
        Self([const { AtomicU32::new(0) }; NR_VIRQS as usize])
    }

    /// The port that a VIRQ is bound to.
    #[inline]
    pub fn port(&self, virq: u32) -> Option<Port> {
        let port = self.0.get(virq as usize)?.load(Acquire);
        (port != 0).then_some(Port(port))
    }

    /// Binds a VIRQ; tells whether it was free.
    pub(super) fn bind(&self, virq: u32, port: Port) -> bool {
        self.0
            .get(virq as usize)
            .is_some_and(|slot| slot.compare_exchange(0, port.0, AcqRel, Relaxed).is_ok())
    }

    /// Takes a binding away if it still is to `port`.
    pub(super) fn unbind(&self, virq: u32, port: Port) {
        if let Some(slot) = self.0.get(virq as usize) {
            let _ = slot.compare_exchange(port.0, 0, AcqRel, Relaxed);
        }
    }
}

impl Default for VirqPorts {
    fn default() -> Self {
        Self::new()
    }
}

impl<H: Hal> Hypervisor<H> {
    /// Raises a per-vCPU VIRQ; nothing happens when the guest has not bound it. `vcpu` is one of `domain`.
    #[inline]
    pub fn send_guest_vcpu_virq(&self, domain: &DomainRef<H>, vcpu: &Vcpu<H>, virq: Virq) {
        let Some(port) = vcpu.virqs.port(virq.number()) else {
            return;
        };
        let Some(channel) = domain.events.channel(port) else {
            return;
        };
        // Unlike an IPI, this may come while the domain is taken apart. Its pages are there as long as the port is.
        let _guard = channel.lock();
        let word = channel.word();
        if matches!(word.binding(), Binding::Virq { .. }) {
            self.set_pending(domain, channel, word.vcpu(), port);
        }
    }

    /// Raises a global VIRQ of a domain; nothing happens when the guest has not bound it.
    pub fn send_guest_global_virq(&self, domain: &DomainRef<H>, virq: Virq) {
        if let Some(first) = domain.vcpus.first() {
            self.send_guest_vcpu_virq(domain, first, virq);
        }
    }

    /// Raises a global VIRQ of the control domain, such as "a domain ended".
    pub fn send_global_virq(&self, virq: Virq) {
        if let Some(control) = self.domains.get(DomId(0)) {
            self.send_guest_global_virq(&control, virq);
        }
    }
}
