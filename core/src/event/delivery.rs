//! From "this port has an event" to an interrupted vCPU.
//!
//! [`Backend`] is the place where the two ABIs differ; everything above it is common. The caller sees to it that the
//! shared info and the `vcpu_info`s of the domain stay: it is a vCPU of the domain, or holds the lock of a channel that is
//! bound. A port that a domain closes while it sends an IPI through it may at worst show that domain one event that nobody
//! sent. Delivery in the two-level ABI takes no lock of its own; in the FIFO ABI that of a queue of the receiving vCPU, for
//! a fixed number of accesses.

use xenolith_abi::{Port, event_channel::EventWord};
use xenolith_hal::{AtomicOp::Load, Hal};

use super::{
    channel::Channel,
    fifo::{self, Fifo, QueuedPort, link::Change},
    two_level::{self, GuestWords},
};
use crate::{Domain, DomainRef, Hypervisor, Vcpu, VcpuId, VcpuRef};

/// What a change of the words asks of the sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// The event was pending before: nothing changed.
    Already,
    /// It is pending now, but the guest is either masking it or told already.
    Quiet,
    /// The vCPU is to be interrupted.
    Upcall,
}

/// Which ABI a domain's event bits follow.
#[derive(Clone, Copy)]
pub(super) enum Backend<'a> {
    /// Bits in the shared info.
    TwoLevel,
    /// Words and queues in pages of the guest.
    Fifo(&'a Fifo),
}

impl Backend<'_> {
    pub(super) fn ports<H: Hal>(self, domain: &Domain<H>) -> u32 {
        match self {
            Self::TwoLevel => domain.two_level_ports(),
            Self::Fifo(_) => fifo::PORTS,
        }
    }

    pub(super) fn is_pending<H: Hal>(self, hal: &H, domain: &Domain<H>, port: Port) -> bool {
        match self {
            Self::TwoLevel => {
                port.0 < domain.two_level_ports()
                    && GuestWords::of_domain(hal, domain).is_pending(port.0)
            }
            Self::Fifo(fifo) => word(fifo, hal, domain, port).contains(EventWord::PENDING),
        }
    }

    pub(super) fn is_masked<H: Hal>(self, hal: &H, domain: &Domain<H>, port: Port) -> bool {
        match self {
            Self::TwoLevel => {
                port.0 < domain.two_level_ports()
                    && GuestWords::of_domain(hal, domain).is_masked(port.0)
            }
            Self::Fifo(fifo) => word(fifo, hal, domain, port).contains(EventWord::MASKED),
        }
    }

    /// Whether a port that is free cannot be given out yet: it is still in a queue.
    pub(super) fn is_busy<H: Hal>(self, hal: &H, channel: &Channel<H>, port: Port) -> bool {
        match self {
            Self::TwoLevel => false,
            Self::Fifo(fifo) => fifo
                .word(hal, &queued(channel, port))
                .contains(EventWord::LINKED),
        }
    }

    pub(super) fn clear_pending<H: Hal>(
        self,
        hal: &H,
        domain: &Domain<H>,
        channel: &Channel<H>,
        port: Port,
    ) {
        if let Self::Fifo(fifo) = self {
            fifo.clear_pending(hal, &queued(channel, port));
        }
        // A sender that did not know yet that the domain left this ABI may have set it there.
        if port.0 < domain.two_level_ports() {
            GuestWords::of_domain(hal, domain).clear(port.0);
        }
    }
}

fn queued<H: Hal>(channel: &Channel<H>, port: Port) -> QueuedPort<'_> {
    QueuedPort {
        port,
        state: &channel.fifo,
    }
}

fn word<H: Hal>(fifo: &Fifo, hal: &H, domain: &Domain<H>, port: Port) -> EventWord {
    domain
        .events
        .channel(port)
        .map_or(EventWord::empty(), |channel| {
            fifo.word(hal, &queued(channel, port))
        })
}

impl<H: Hal> Hypervisor<H> {
    /// Makes a port of `domain` pending and interrupts `vcpu` if its guest is not told yet.
    #[inline(never)]
    pub(super) fn set_pending(
        &self,
        domain: &DomainRef<H>,
        channel: &Channel<H>,
        vcpu: VcpuId,
        port: Port,
    ) {
        self.set_pending_here(domain, channel, vcpu, port);
    }

    /// The same as a part of the caller's code: on the way that is taken most.
    #[inline(always)]
    pub(super) fn set_pending_here(
        &self,
        domain: &DomainRef<H>,
        channel: &Channel<H>,
        vcpu: VcpuId,
        port: Port,
    ) {
        let Some(target) = domain.vcpus.get(usize::from(vcpu.0)) else {
            return;
        };
        if domain.events.fifo().is_none() && domain.has_two_level_port(port) {
            let signal = two_level::raise(&GuestWords::new(&self.hal, domain, target), port.0);
            self.tell(signal, domain, target, port);
        }
        // The guest may have gone over to the FIFO ABI meanwhile, and looked for what is pending too early. An upcall byte that was
        // set above keeps every later event quiet until the guest has seen it.
        if let Some(fifo) = domain.events.fifo() {
            self.raise_in_queue(fifo, (domain, target), channel, port);
        }
    }

    #[inline(never)]
    fn raise_in_queue(
        &self,
        fifo: &Fifo,
        (domain, target): (&DomainRef<H>, &Vcpu<H>),
        channel: &Channel<H>,
        port: Port,
    ) {
        let queued = queued(channel, port);
        let signal = fifo.change(&self.hal, (domain, target), &queued, Change::Raise);
        self.tell(signal, domain, target, port);
    }

    /// Does what a change asks for.
    #[inline(always)]
    fn tell(&self, signal: Signal, domain: &DomainRef<H>, target: &Vcpu<H>, port: Port) {
        if signal == Signal::Already {
            return;
        }
        self.act_on(signal, domain, target);
        // A poller announces itself, then looks at the bit; the bit was set before this look. One of both sees it.
        self.wake_pollers(domain, port);
    }

    /// Takes a port's mask away and tells the vCPU what became pending under it.
    pub(super) fn unmask_port(
        &self,
        domain: &DomainRef<H>,
        channel: &Channel<H>,
        vcpu: VcpuId,
        port: Port,
    ) {
        let Some(target) = domain.vcpus.get(usize::from(vcpu.0)) else {
            return;
        };
        let hal = &self.hal;
        let signal = match domain.events.backend() {
            Backend::TwoLevel if port.0 < domain.two_level_ports() => {
                two_level::unmask(&GuestWords::new(hal, domain, target), port.0)
            }
            Backend::TwoLevel => Signal::Quiet,
            Backend::Fifo(fifo) => {
                let at = queued(channel, port);
                fifo.change(hal, (domain, target), &at, Change::Unmask)
            }
        };
        self.act_on(signal, domain, target);
    }

    #[inline(always)]
    fn act_on(&self, signal: Signal, domain: &DomainRef<H>, target: &Vcpu<H>) {
        if signal == Signal::Upcall {
            self.hal.raise_upcall(&domain.arch, &target.arch);
            self.notify_vcpu(domain, target);
        }
    }

    /// Whether the guest of a vCPU is to be told of events: its upcall byte is set and not masked.
    #[inline]
    pub fn upcall_pending(&self, vcpu: &VcpuRef<H>) -> bool {
        let domain = vcpu.domain();
        let Some((frame, offset)) = domain.info_frame(&self.hal, vcpu) else {
            return false;
        };
        let layout = const {
            let layout = H::SHARED_INFO.vcpu;
            // One look-up serves both kinds of domain.
            assert!(layout.evtchn_upcall_pending == H::PV_SHARED_INFO.vcpu.evtchn_upcall_pending);
            assert!(layout.evtchn_upcall_mask == H::PV_SHARED_INFO.vcpu.evtchn_upcall_mask);
            layout
        };
        let byte = |at: usize| self.hal.word8(frame, offset + at, Load);
        byte(layout.evtchn_upcall_pending) != 0
            && !(domain.has_upcall_mask() && byte(layout.evtchn_upcall_mask) != 0)
    }
}
