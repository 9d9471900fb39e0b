//! Closing ports: one, all for a reset, all for good.

use core::sync::atomic::Ordering::SeqCst;

use xenolith_abi::{Errno, Port};
use xenolith_hal::Hal;

use super::channel::{Binding, Channel, Word};
use crate::{DomainRef, Hypervisor, VcpuId};

/// How many ports are closed between two looks at waiting interrupts.
const BATCH: u32 = 16;

/// Whether a walk over all ports came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Progress {
    /// Every port is closed.
    Finished,
    /// An interrupt waits; call again to go on.
    Interrupted,
}

impl<H: Hal> Hypervisor<H> {
    /// Closes a port of `domain`. The other end of an interdomain channel waits for a new connection from then on.
    /// `EINVAL` when the port is not in use.
    pub fn close_port(&self, domain: &DomainRef<H>, port: Port) -> Result<(), Errno> {
        let channel = domain.events.valid(port)?;
        loop {
            let guard = channel.lock();
            let word = channel.word();
            match word.binding() {
                Binding::Free | Binding::Reserved => return Err(Errno::EINVAL),
                Binding::Unbound { .. } | Binding::Ipi => {
                    self.free(domain, port, channel);
                    return Ok(());
                }
                Binding::Virq { virq } => {
                    if let Some(vcpu) = domain.vcpus.get(usize::from(word_owner(word, virq).0)) {
                        vcpu.virqs.unbind(virq, port);
                    }
                    self.free(domain, port, channel);
                    return Ok(());
                }
                Binding::Pirq { pirq } => {
                    self.end_pirq(domain, pirq);
                    self.free(domain, port, channel);
                    return Ok(());
                }
                Binding::Interdomain { .. } => {
                    let Some(peer) = guard.as_ref().cloned() else {
                        self.free(domain, port, channel);
                        return Ok(());
                    };
                    // The pair is locked in the order of addresses, so this lock goes first.
                    drop(guard);
                    if self.disconnect((domain, port, channel), (&peer.domain, peer.port)) {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Frees `port` and unbinds its peer, if they still are a pair; tells whether they were.
    fn disconnect(
        &self,
        (domain, port, channel): (&DomainRef<H>, Port, &Channel<H>),
        (remote, remote_port): (&DomainRef<H>, Port),
    ) -> bool {
        let Some(remote_channel) = remote.events.channel(remote_port) else {
            return false;
        };
        let (mut near, mut far) = channel.lock_pair(remote_channel);
        let still_paired = near.as_ref().is_some_and(|peer| {
            alloc::sync::Arc::ptr_eq(&peer.domain, remote) && peer.port == remote_port
        });
        if !still_paired {
            return false;
        }
        let ends = (near.take(), far.take());
        let waiting = Binding::Unbound {
            remote: domain.id(),
        };
        remote_channel.set(Word::new(waiting, remote_channel.word().vcpu()));
        self.free(domain, port, channel);
        drop((near, far));
        // A reference that goes may be a domain's last; no lock is held when it does.
        drop(ends);
        true
    }

    #[inline(always)]
    fn free(&self, domain: &DomainRef<H>, port: Port, channel: &Channel<H>) {
        let backend = domain.events.backend();
        backend.clear_pending(&self.hal, domain, channel, port);
        domain.events.give_back(port, channel);
    }

    /// Closes every port that is in use now. When all are closed, the domain is back in the two-level ABI.
    pub fn reset_ports(&self, domain: &DomainRef<H>) -> Progress {
        let mut closed = 0;
        for (port, _) in domain.events.channels() {
            if self.close_port(domain, port).is_err() {
                continue;
            }
            closed += 1;
            if closed % BATCH == 0 && self.hal.interrupt_waits() {
                return Progress::Interrupted;
            }
        }
        self.leave_fifo(domain);
        Progress::Finished
    }

    /// Closes every port of a domain that ends, and lets none be bound any more.
    pub fn close_all_ports(&self, domain: &DomainRef<H>) -> Progress {
        domain.events.closed.store(true, SeqCst);
        let progress = self.reset_ports(domain);
        if progress == Progress::Finished {
            // Whoever was adding a port when the table was closed is done when the lock is free.
            let _allocation = domain.events.allocation.lock();
            domain.events.buckets.settle(&domain.memory);
        }
        progress
    }
}

/// The vCPU in whose table a VIRQ stands: that of vCPU 0 for a global one, whichever vCPU it notifies now.
fn word_owner(word: Word, virq: u32) -> VcpuId {
    if super::bind::is_global(virq) {
        VcpuId(0)
    } else {
        word.vcpu()
    }
}
