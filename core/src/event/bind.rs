//! Giving ports a meaning: unbound, interdomain, VIRQ, IPI, and the vCPU that they notify.

use xenolith_abi::{
    Errno, Port,
    virq::{NR_VIRQS, Virq},
};
use xenolith_hal::Hal;

use super::{
    EventTable,
    channel::{Binding, Channel, Peer, Word},
};
use crate::{DomId, Domain, DomainRef, Hypervisor, Vcpu, VcpuId};

/// Whether a VIRQ is bound once per domain. Numbers that no header names yet count as global, as Xen takes them.
pub(super) fn is_global(virq: u32) -> bool {
    Virq::try_from(virq).map_or(true, Virq::is_global)
}

/// The vCPU with a number out of a guest's hands; `ENOENT` when the domain has no such vCPU.
pub(super) fn vcpu_numbered<H: Hal>(domain: &Domain<H>, number: u32) -> Result<&Vcpu<H>, Errno> {
    domain.vcpus.get(number as usize).ok_or(Errno::ENOENT)
}

impl<H: Hal> EventTable<H> {
    /// Gives a reserved port its meaning. The domain may have begun to end since it was reserved; whoever closes its
    /// channels takes each lock after saying so, so either this sees it or the closer sees the new binding.
    pub(super) fn publish(
        &self,
        port: Port,
        channel: &Channel<H>,
        word: Word,
    ) -> Result<(), Errno> {
        let _guard = channel.lock();
        if self.is_closed() {
            self.give_back(port, channel);
            return Err(Errno::EINVAL);
        }
        channel.set(word);
        Ok(())
    }
}

impl<H: Hal> Hypervisor<H> {
    /// Makes a port of `domain` that waits for `remote`, which need not exist yet.
    pub fn alloc_unbound(&self, domain: &Domain<H>, remote: DomId) -> Result<Port, Errno> {
        self.bind_new(domain, Binding::Unbound { remote }, VcpuId(0))
    }

    fn bind_new(&self, domain: &Domain<H>, binding: Binding, vcpu: VcpuId) -> Result<Port, Errno> {
        let (port, channel) = self.reserve_port(domain)?;
        let word = Word::new(binding, vcpu);
        domain.events.publish(port, channel, word)?;
        Ok(port)
    }

    fn reserve_port<'a>(&self, domain: &'a Domain<H>) -> Result<(Port, &'a Channel<H>), Errno> {
        domain.events.reserve(&self.hal, domain)
    }

    /// Connects a new port of `local` to an unbound port of `remote` that waits for it. The new port is pending at
    /// once: the remote may have sent before there was anybody to hear it.
    pub fn bind_interdomain(
        &self,
        local: &DomainRef<H>,
        remote: &DomainRef<H>,
        remote_port: Port,
    ) -> Result<Port, Errno> {
        let (port, channel) = self.reserve_port(local)?;
        let bound = self.connect((local, port, channel), remote, remote_port);
        if bound.is_err() {
            local.events.give_back(port, channel);
        }
        bound.map(|()| port)
    }

    fn connect(
        &self,
        (local, port, channel): (&DomainRef<H>, Port, &Channel<H>),
        remote: &DomainRef<H>,
        remote_port: Port,
    ) -> Result<(), Errno> {
        let remote_channel = remote.events.valid(remote_port)?;
        if core::ptr::eq(channel, remote_channel) {
            return Err(Errno::EINVAL);
        }
        let (mut near, mut far) = channel.lock_pair(remote_channel);
        let far_word = remote_channel.word();
        let waits_for_us = Binding::Unbound { remote: local.id() };
        if far_word.binding() != waits_for_us || local.events.is_closed() {
            return Err(Errno::EINVAL);
        }
        *near = Some(Peer {
            domain: remote.clone(),
            port: remote_port,
        });
        *far = Some(Peer {
            domain: local.clone(),
            port,
        });
        let near_binding = Binding::Interdomain {
            remote: remote_port,
        };
        let far_binding = Binding::Interdomain { remote: port };
        channel.set(Word::new(near_binding, VcpuId(0)));
        remote_channel.set(Word::new(far_binding, far_word.vcpu()));
        self.set_pending(local, channel, VcpuId(0), port);
        Ok(())
    }

    /// Binds a new port to a VIRQ. `EINVAL` for a number that is none, or a global VIRQ not on vCPU 0; `ENOENT` for a
    /// vCPU that is none; `EEXIST` when the VIRQ is bound.
    pub fn bind_virq(&self, domain: &DomainRef<H>, virq: u32, vcpu: u32) -> Result<Port, Errno> {
        if virq >= NR_VIRQS || (is_global(virq) && vcpu != 0) {
            return Err(Errno::EINVAL);
        }
        let vcpu = vcpu_numbered(domain, vcpu)?;
        if vcpu.virqs.port(virq).is_some() {
            return Err(Errno::EEXIST);
        }
        let (port, channel) = self.reserve_port(domain)?;
        if !vcpu.virqs.bind(virq, port) {
            domain.events.give_back(port, channel);
            return Err(Errno::EEXIST);
        }
        let word = Word::new(Binding::Virq { virq }, vcpu.id);
        domain
            .events
            .publish(port, channel, word)
            .inspect_err(|_| vcpu.virqs.unbind(virq, port))?;
        Ok(port)
    }

    /// Binds a new port to a vCPU of the domain itself; `ENOENT` for a vCPU that is none.
    pub fn bind_ipi(&self, domain: &DomainRef<H>, vcpu: u32) -> Result<Port, Errno> {
        let vcpu = vcpu_numbered(domain, vcpu)?.id;
        self.bind_new(domain, Binding::Ipi, vcpu)
    }

    /// Chooses the vCPU that a port notifies. `EINVAL` for an IPI or a per-vCPU VIRQ, whose vCPU is fixed.
    pub fn bind_vcpu(&self, domain: &DomainRef<H>, port: Port, vcpu: u32) -> Result<(), Errno> {
        let vcpu = vcpu_numbered(domain, vcpu)?.id;
        let channel = domain.events.valid(port)?;
        let _guard = channel.lock();
        let binding = channel.word().binding();
        match binding {
            Binding::Unbound { .. } | Binding::Interdomain { .. } | Binding::Pirq { .. } => {}
            Binding::Virq { virq } if is_global(virq) => {}
            _ => return Err(Errno::EINVAL),
        }
        channel.set(Word::new(binding, vcpu));
        Ok(())
    }
}
