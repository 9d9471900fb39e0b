//! What a port is bound to, as `EVTCHNOP_status` tells it.

use xenolith_abi::{
    Errno, Port,
    event_channel::{PortState, StatusPeer},
};
use xenolith_hal::Hal;

use super::{EventTable, channel::Binding};
use crate::{DomId, VcpuId};

/// The answer to a status question.
pub(super) struct PortStatus {
    pub(super) state: PortState,
    pub(super) vcpu: VcpuId,
    pub(super) peer: StatusPeer,
}

impl<H: Hal> EventTable<H> {
    /// What a port is; `EINVAL` for a number that was never valid.
    pub(super) fn status(&self, port: Port) -> Result<PortStatus, Errno> {
        let channel = self.valid(port)?;
        let guard = channel.lock();
        let word = channel.word();
        let (state, peer) = match word.binding() {
            Binding::Free | Binding::Reserved => (PortState::Closed, StatusPeer::default()),
            Binding::Unbound { remote } => (PortState::Unbound, StatusPeer::unbound(remote)),
            Binding::Interdomain { remote } => {
                let peer = guard.as_ref().map_or(DomId::SELF, |peer| peer.domain.id());
                (
                    PortState::Interdomain,
                    StatusPeer::interdomain(peer, remote),
                )
            }
            Binding::Virq { virq } => (PortState::Virq, StatusPeer::irq(virq)),
            Binding::Pirq { pirq } => (PortState::Pirq, StatusPeer::irq(pirq)),
            Binding::Ipi => (PortState::Ipi, StatusPeer::default()),
        };
        Ok(PortStatus {
            state,
            vcpu: word.vcpu(),
            peer,
        })
    }
}
