//! Physical interrupts of a paravirtual domain, as events.
//!
//! The architecture numbers the interrupts of a domain that has devices, and says when one came ([`Hypervisor::send_pirq`]); the
//! port of each is here. An interrupt that comes while its number has no port is not lost: whoever binds the number next finds
//! its port pending. Invariant: a word names a port from before the number can interrupt until after it cannot.

use alloc::boxed::Box;
use core::sync::atomic::{
    AtomicU32,
    Ordering::{AcqRel, Acquire, Relaxed},
};

use xenolith_abi::{Errno, Port};
use xenolith_hal::Hal;

use super::channel::{Binding, Word};
use crate::{Domain, DomainRef, Hypervisor, VcpuId, memory::try_boxed_slice};

/// Numbers that a domain may have; larger ones are refused.
pub const PIRQS: u32 = 1024;

/// An interrupt came while nobody could be told.
const EARLY: u32 = 1 << 31;
const PORT: u32 = EARLY - 1;

/// The port of each physical interrupt of a domain. Empty until the first is bound.
pub struct PirqPorts(spin::Once<Box<[AtomicU32]>>);

impl PirqPorts {
    /// Nothing bound.
    pub const fn new() -> Self {
        Self(spin::Once::new())
    }

    fn word(&self, pirq: u32) -> Option<&AtomicU32> {
        self.0.get()?.get(pirq as usize)
    }

    fn make(&self) -> Result<(), Errno> {
        let words = || {
            let words = (0..PIRQS as usize).map(|_| AtomicU32::new(0));
            try_boxed_slice(words).map_err(|_| Errno::ENOMEM)
        };
        self.0.try_call_once(words).map(drop)
    }

    /// The port that a number is bound to.
    pub fn port(&self, pirq: u32) -> Option<Port> {
        let port = self.word(pirq)?.load(Acquire) & PORT;
        (port != 0).then_some(Port(port))
    }

    /// Binds a number; tells whether it was free.
    fn bind(&self, pirq: u32, port: Port) -> bool {
        let bound = |old: u32| (old & PORT == 0).then_some(old | port.0);
        self.word(pirq)
            .is_some_and(|word| word.fetch_update(AcqRel, Relaxed, bound).is_ok())
    }

    fn unbind(&self, pirq: u32) {
        if let Some(word) = self.word(pirq) {
            word.store(0, Relaxed);
        }
    }

    /// Remembers an interrupt unless there is a port by now, which is returned.
    fn note_early(&self, pirq: u32) -> Option<Port> {
        self.make().ok()?;
        let early = |old: u32| (old & PORT == 0).then_some(old | EARLY);
        match self.word(pirq)?.fetch_update(AcqRel, Acquire, early) {
            Ok(_) => None,
            Err(old) => Some(Port(old & PORT)),
        }
    }
}

impl Default for PirqPorts {
    fn default() -> Self {
        Self::new()
    }
}

impl<H: Hal> Hypervisor<H> {
    /// Binds a new port to a physical interrupt of a paravirtual domain.
    ///
    /// `EINVAL` for a number that is none, `EEXIST` when it is bound, and what the architecture has against it.
    pub fn bind_pirq(&self, domain: &DomainRef<H>, pirq: u32, share: bool) -> Result<Port, Errno> {
        let ports = &domain.pirqs;
        if pirq >= PIRQS {
            return Err(Errno::EINVAL);
        }
        if ports.port(pirq).is_some() {
            return Err(Errno::EEXIST);
        }
        ports.make()?;
        let (port, channel) = domain.events.reserve(&self.hal, domain)?;
        if !ports.bind(pirq, port) {
            domain.events.give_back(port, channel);
            return Err(Errno::EEXIST);
        }
        if let Err(errno) = self.hal.open_pirq(&domain.arch, pirq, share) {
            ports.unbind(pirq);
            domain.events.give_back(port, channel);
            return Err(errno);
        }
        let word = Word::new(Binding::Pirq { pirq }, VcpuId(0));
        domain
            .events
            .publish(port, channel, word)
            .inspect_err(|_| self.end_pirq(domain, pirq))?;
        let early = ports
            .word(pirq)
            .is_some_and(|word| word.fetch_and(PORT, AcqRel) & EARLY != 0);
        if early {
            self.send_pirq(domain, pirq);
        }
        Ok(port)
    }

    /// The number has no port any more. The caller holds the lock of its channel, or the channel is not bound yet.
    pub(super) fn end_pirq(&self, domain: &Domain<H>, pirq: u32) {
        self.hal.close_pirq(&domain.arch, pirq);
        domain.pirqs.unbind(pirq);
    }

    /// A physical interrupt of a domain came.
    pub fn send_pirq(&self, domain: &DomainRef<H>, pirq: u32) {
        let ports = &domain.pirqs;
        while let Some(port) = ports.port(pirq).or_else(|| ports.note_early(pirq)) {
            let Some(channel) = domain.events.channel(port) else {
                return;
            };
            let _guard = channel.lock();
            let word = channel.word();
            if word.binding() == (Binding::Pirq { pirq }) {
                return self.set_pending(domain, channel, word.vcpu(), port);
            }
            // Just being bound: who binds looks at this afterwards, once this lock is open. Just closed: so does the next,
            // unless that has been.
            let now = ports
                .word(pirq)
                .map_or(0, |word| word.fetch_or(EARLY, AcqRel) & PORT);
            if now == 0 || now == port.0 {
                return;
            }
        }
    }

    /// Takes the mask off the port of a physical interrupt, if it has one.
    pub fn unmask_pirq(&self, domain: &DomainRef<H>, pirq: u32) {
        if let Some(port) = domain.pirqs.port(pirq)
            && let Some(channel) = domain.events.channel(port)
        {
            self.unmask_port(domain, channel, channel.word().vcpu(), port);
        }
    }
}
