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
    #[inline]
    pub(super) fn set_pending(
        &self,
        domain: &DomainRef<H>,
        channel: &Channel<H>,
        vcpu: VcpuId,
        port: Port,
    ) {
        let Some(target) = domain.vcpus.get(usize::from(vcpu.0)) else {
            return;
        };
        let signal = self.raise((domain, target), channel, port);
        if signal == Signal::Already {
            return;
        }
        self.act_on(signal, domain, target);
        // A poller announces itself, then looks at the bit; the bit was set before this look. One of both sees it.
        self.wake_pollers(domain, port);
    }

    #[inline]
    fn raise(
        &self,
        (domain, vcpu): (&DomainRef<H>, &Vcpu<H>),
        channel: &Channel<H>,
        port: Port,
    ) -> Signal {
        let hal = &self.hal;
        let mut signal = Signal::Quiet;
        if domain.events.fifo().is_none() && port.0 < domain.two_level_ports() {
            signal = two_level::raise(&GuestWords::new(hal, domain, vcpu), port.0);
        }
        // The guest may have gone over to the FIFO ABI meanwhile, and looked for what is pending too early.
        match domain.events.fifo() {
            None => signal,
            Some(fifo) => {
                let queued = queued(channel, port);
                let later = fifo.change(hal, (domain, vcpu), &queued, Change::Raise);
                // An upcall byte that the first half set keeps every later event quiet until the guest has seen it.
                if signal == Signal::Upcall {
                    signal
                } else {
                    later
                }
            }
        }
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

    #[inline]
    fn act_on(&self, signal: Signal, domain: &DomainRef<H>, target: &Vcpu<H>) {
        if signal == Signal::Upcall {
            self.hal.raise_upcall(&domain.arch, &target.arch);
            self.notify_vcpu(domain, target);
        }
    }

    /// Whether the guest of a vCPU is to be told of events: its upcall byte is set and not masked.
    #[inline]
    pub fn upcall_pending(&self, vcpu: &VcpuRef<H>) -> bool {
        let Some(info) = vcpu.domain().info_area(vcpu) else {
            return false;
        };
        let layout = const {
            let layout = H::SHARED_INFO.vcpu;
            // One look-up serves both kinds of domain.
            assert!(layout.evtchn_upcall_pending == H::PV_SHARED_INFO.vcpu.evtchn_upcall_pending);
            assert!(layout.evtchn_upcall_mask == H::PV_SHARED_INFO.vcpu.evtchn_upcall_mask);
            layout
        };
        let byte = |at: usize| {
            self.hal
                .atomic8(info.mfn, info.offset + at, Load)
                .unwrap_or(0)
        };
        byte(layout.evtchn_upcall_pending) != 0
            && !(vcpu.domain().has_upcall_mask() && byte(layout.evtchn_upcall_mask) != 0)
    }
}
