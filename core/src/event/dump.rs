//! The event channels of a domain for a person to read: debug key `e`.

use core::fmt;

use xenolith_abi::Port;
use xenolith_hal::Hal;

use super::channel::Binding;
use crate::{DomId, DomainRef, Hypervisor, VcpuId};

/// What there is to say about a port in use.
#[derive(Clone, Copy, Debug)]
pub struct PortFacts {
    /// The port.
    pub port: Port,
    /// What it is bound to.
    pub binding: Binding,
    /// The other domain of an interdomain channel.
    pub peer: Option<DomId>,
    /// The vCPU that it notifies.
    pub vcpu: VcpuId,
    /// Whether an event is pending.
    pub pending: bool,
    /// Whether the guest masks it.
    pub masked: bool,
}

impl fmt::Display for PortFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = (u8::from(self.pending), u8::from(self.masked));
        write!(
            f,
            "{:4} [{}/{}]: v{} ",
            self.port.0, bits.0, bits.1, self.vcpu.0
        )?;
        match (self.binding, self.peer) {
            (Binding::Interdomain { remote }, Some(peer)) => {
                write!(f, "interdomain with d{} port {}", peer.0, remote.0)
            }
            (Binding::Unbound { remote }, _) => write!(f, "unbound, waits for d{}", remote.0),
            (Binding::Virq { virq }, _) => write!(f, "virq {virq}"),
            (Binding::Pirq { pirq }, _) => write!(f, "pirq {pirq}"),
            (Binding::Ipi, _) => f.write_str("ipi"),
            (other, _) => write!(f, "{other:?}"),
        }
    }
}

impl<H: Hal> Hypervisor<H> {
    /// Calls `f` for each port of a domain that is in use. `f` may print; no lock is held while it runs.
    pub fn dump_ports(&self, domain: &DomainRef<H>, mut f: impl FnMut(&PortFacts)) {
        let backend = domain.events.backend();
        for (port, channel) in domain.events.channels() {
            let guard = channel.lock();
            let word = channel.word();
            let peer = guard.as_ref().map(|peer| peer.domain.id());
            drop(guard);
            if word.binding() == Binding::Free {
                continue;
            }
            f(&PortFacts {
                port,
                binding: word.binding(),
                peer,
                vcpu: word.vcpu(),
                pending: backend.is_pending(&self.hal, domain, port),
                masked: backend.is_masked(&self.hal, domain, port),
            });
        }
    }
}
