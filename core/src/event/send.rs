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
    #[inline(never)]
    pub fn send_event(&self, domain: &DomainRef<H>, port: Port) -> Result<(), Errno> {
        self.send_event_here(domain, port)
    }

    /// The same as a part of the caller's code.
    #[inline(always)]
    pub fn send_event_here(&self, domain: &DomainRef<H>, port: Port) -> Result<(), Errno> {
        let channel = domain.events.valid(port)?;
        let guard;
        let word = channel.word();
        let (domain, channel, vcpu, port) = match word.binding() {
            Binding::Ipi => (domain, channel, word.vcpu(), port),
            Binding::Interdomain { .. } => {
                guard = channel.lock();
                match guard.as_ref() {
                    Some(peer) => match peer.domain.events.channel(peer.port) {
                        Some(remote) => (&peer.domain, remote, remote.word().vcpu(), peer.port),
                        None => return Ok(()),
                    },
                    // Closed by the peer in the last moment: an unbound port swallows the event.
                    None => return Ok(()),
                }
            }
            Binding::Unbound { .. } => return Ok(()),
            Binding::Free | Binding::Reserved | Binding::Virq { .. } | Binding::Pirq { .. } => {
                return Err(Errno::EINVAL);
            }
        };
        self.set_pending_here(domain, channel, vcpu, port);
        Ok(())
    }
}
