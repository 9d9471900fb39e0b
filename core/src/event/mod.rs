//! Event channels: one-bit notifications between domains, vCPUs and the hypervisor (`event_channel.h`).
//!
//! A port is found without a lock (`buckets`). Three layers: [`EventTable`] and `channel` know what a port is bound to, `delivery` turns an
//! event into bits and an interrupt, `two_level` and `fifo` are the forms of the bits. Invariant: the two ends of an interdomain
//! channel name each other, or neither does.

mod bind;
mod buckets;
mod channel;
mod close;
mod delivery;
mod dump;
pub mod fifo;
mod info;
mod op;
mod pirq;
mod poll;
mod send;
mod status;
#[cfg(test)]
mod tests;
pub mod two_level;
mod virq;

use core::sync::atomic::{
    AtomicBool, AtomicU32,
    Ordering::{AcqRel, Acquire, Relaxed, SeqCst},
};

use xenolith_abi::{Errno, Port};
use xenolith_hal::{
    Hal, Mfn,
    sync::{Mutex, Rank},
};

pub use channel::Binding;
pub use close::Progress;
pub use delivery::Signal;
pub use dump::PortFacts;
pub use info::{InfoArea, InfoPlace};
pub use op::{event_channel_op, event_channel_op_compat};
pub use pirq::{PIRQS, PirqPorts};
pub use virq::VirqPorts;

use crate::{Domain, memory::DomainMemory};
use buckets::Buckets;
use channel::{Channel, Word};
use delivery::Backend;
use fifo::Fifo;

/// The last port that a domain gets by default unless it is privileged, as Xen's tools choose it.
pub const DEFAULT_MAX_PORT: u32 = 1023;

/// A domain's event channels.
pub struct EventTable<H: Hal> {
    buckets: Buckets<H>,
    /// The FIFO ABI, once the guest asked for it.
    fifo: spin::Once<Fifo>,
    /// Whether the guest uses it. The first thing that a sender looks at, and after a bit of the two-level ABI the last.
    fifo_live: AtomicBool,
    /// Held while a port is taken from the free ones and while a bucket is added.
    allocation: Mutex<()>,
    /// No port below this one is free.
    first_free: AtomicU32,
    /// The last port that the domain may have.
    max_port: AtomicU32,
    /// Set before the channels of a domain that ends are closed; no port is bound from then on.
    closed: AtomicBool,
}

impl<H: Hal> EventTable<H> {
    /// No channel in use, and none beyond `max_port` ever. Port 0 is never given out: many interfaces take it for "none".
    pub fn new(max_port: u32) -> Self {
        Self {
            buckets: Buckets::new(),
            fifo: spin::Once::new(),
            fifo_live: AtomicBool::new(false),
            allocation: Mutex::new(Rank::EventTable, ()),
            first_free: AtomicU32::new(1),
            max_port: AtomicU32::new(max_port),
            closed: AtomicBool::new(false),
        }
    }

    /// Changes the last port that the domain may have. Ports beyond it that are in use stay.
    pub fn set_max_port(&self, max_port: u32) {
        self.max_port.store(max_port, Relaxed);
    }

    /// Frames of the hypervisor's heap that are charged to the domain for its ports.
    pub fn charged(&self) -> u64 {
        self.buckets.charged()
    }

    /// The channel of a port; `None` for a number that was never valid, `EINVAL` to a guest.
    #[inline]
    fn channel(&self, port: Port) -> Option<&Channel<H>> {
        self.buckets.get(port)
    }

    fn valid(&self, port: Port) -> Result<&Channel<H>, Errno> {
        self.channel(port).ok_or(Errno::EINVAL)
    }

    /// Whether the guest uses the FIFO ABI.
    pub fn uses_fifo(&self) -> bool {
        self.fifo().is_some()
    }

    /// The frames that the FIFO ABI holds, one for each reference.
    pub fn fifo_frames(&self) -> impl Iterator<Item = Mfn> + '_ {
        self.fifo.get().into_iter().flat_map(Fifo::frames)
    }

    /// The FIFO ABI, while the guest uses it.
    #[inline]
    fn fifo(&self) -> Option<&Fifo> {
        match self.fifo_live.load(SeqCst) {
            true => self.fifo.get(),
            false => None,
        }
    }

    #[inline]
    fn backend(&self) -> Backend<'_> {
        match self.fifo() {
            Some(fifo) => Backend::Fifo(fifo),
            None => Backend::TwoLevel,
        }
    }

    /// Every port that was ever valid, rising.
    fn channels(&self) -> impl Iterator<Item = (Port, &Channel<H>)> {
        self.buckets.iter()
    }

    fn is_closed(&self) -> bool {
        self.closed.load(SeqCst)
    }

    /// Takes the lowest free port. The caller binds it or gives it back with [`EventTable::give_back`].
    ///
    /// `EINVAL` when the domain ends, `ENOSPC` when every port is in use, `ENOMEM` without memory or quota.
    fn reserve(&self, hal: &H, domain: &Domain<H>) -> Result<(Port, &Channel<H>), Errno> {
        let _allocation = self.allocation.lock();
        if self.is_closed() {
            return Err(Errno::EINVAL);
        }
        let backend = self.backend();
        let end = backend
            .ports(domain)
            .min(self.max_port.load(Relaxed).saturating_add(1));
        // Most often the port at the mark is free. The mark may stay there: the next search begins with a port in use.
        let first = Port(self.first_free.load(Acquire));
        if first.0 < end
            && let Some(channel) = self.channel(first)
            && channel.word().binding() == Binding::Free
            && !backend.is_busy(hal, channel, first)
        {
            return Ok((first, channel.reserve()));
        }
        self.search(hal, backend, end, &domain.memory)
    }

    /// As [`EventTable::reserve`], port by port. The caller holds the lock of allocation.
    #[inline(never)]
    fn search(
        &self,
        hal: &H,
        backend: Backend<'_>,
        end: u32,
        account: &DomainMemory,
    ) -> Result<(Port, &Channel<H>), Errno> {
        // A port freed while this runs lowers the mark again, so the mark is taken before the search.
        let mut port = self.first_free.swap(u32::MAX, AcqRel);
        let mut first_busy = u32::MAX;
        let found = loop {
            if port >= end {
                break Err(Errno::ENOSPC);
            }
            match self.channel(Port(port)) {
                Some(channel) if channel.word().binding() != Binding::Free => port += 1,
                Some(channel) if backend.is_busy(hal, channel, Port(port)) => {
                    first_busy = first_busy.min(port);
                    port += 1;
                }
                Some(channel) => break Ok((Port(port), channel.reserve())),
                None => {
                    if let Err(errno) = self.buckets.grow(Port(port), account) {
                        break Err(errno);
                    }
                }
            }
        };
        let next = port.saturating_add(u32::from(found.is_ok()));
        self.first_free.fetch_min(next.min(first_busy), AcqRel);
        found
    }

    /// Frees a port. The caller holds its lock, or reserved it.
    fn give_back(&self, port: Port, channel: &Channel<H>) {
        channel.set(Word::FREE);
        self.first_free.fetch_min(port.0, AcqRel);
    }
}
