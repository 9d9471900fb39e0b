//! Sending an event: the hot path.
//!
//! An IPI reads one word and takes no lock. An interdomain send holds the lock of its own end only; the peer cannot be
//! closed or change its binding meanwhile, since that takes both locks.

use xenolith_abi::{Errno, Port};
use xenolith_hal::Hal;

use super::channel::Binding;
use crate::{DomainRef, Hypervisor};

impl<H: Hal> Hypervisor<H> {
    /// Sends an event through a port of `domain`. An unbound port swallows it; `EINVAL` for a port that is not for
    /// sending.
    #[inline]
    pub fn send_event(&self, domain: &DomainRef<H>, port: Port) -> Result<(), Errno> {
        let channel = domain.events.valid(port)?;
        let word = channel.word();
        match word.binding() {
            Binding::Ipi => {
                self.set_pending(domain, channel, word.vcpu(), port);
                Ok(())
            }
            Binding::Interdomain { .. } => {
                let guard = channel.lock();
                // Closed by the peer in the last moment: an unbound port swallows the event.
                if let Some(peer) = guard.as_ref()
                    && let Some(remote) = peer.domain.events.channel(peer.port)
                {
                    self.set_pending(&peer.domain, remote, remote.word().vcpu(), peer.port);
                }
                Ok(())
            }
            Binding::Unbound { .. } => Ok(()),
            Binding::Free | Binding::Reserved | Binding::Virq { .. } | Binding::Pirq { .. } => {
                Err(Errno::EINVAL)
            }
        }
    }
}
