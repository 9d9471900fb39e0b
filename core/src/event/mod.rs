//! Event channels: one-bit notifications between domains, vCPUs and the hypervisor (`event_channel.h`).
//!
//! A domain's ports live in buckets of 64 that are added as ports are needed and stay until the domain goes, so a port
//! is found without a lock. Three layers: [`EventTable`] and `channel` know what a port is bound to, `delivery` turns an
//! event into bits and an interrupt, `two_level` is the form of the bits. Invariant: the two ends of an interdomain
//! channel name each other, or neither does.

mod bind;
mod channel;
mod close;
mod delivery;
mod dump;
mod info;
mod op;
mod poll;
mod send;
mod status;
#[cfg(test)]
mod tests;
pub mod two_level;
mod virq;

use alloc::{boxed::Box, vec::Vec};
use core::sync::atomic::{
    AtomicBool, AtomicU32,
    Ordering::{AcqRel, SeqCst},
};

use xenolith_abi::{Errno, Port};
use xenolith_hal::{
    Hal,
    sync::{Mutex, Rank},
};

pub use channel::Binding;
pub use close::Progress;
pub use dump::PortFacts;
pub use info::{InfoArea, InfoPlace};
pub use op::{event_channel_op, event_channel_op_compat};
pub use virq::VirqPorts;

use crate::VcpuId;
use channel::{Channel, Word};
use delivery::Backend;

const BUCKET: usize = 64;
const BUCKETS: usize = two_level::PORTS as usize / BUCKET;

type Bucket<H> = Box<[Channel<H>; BUCKET]>;

/// A domain's event channels.
pub struct EventTable<H: Hal> {
    buckets: [spin::Once<Bucket<H>>; BUCKETS],
    /// Held while a port is taken from the free ones and while a bucket is added.
    allocation: Mutex<()>,
    /// No port below this one is free.
    first_free: AtomicU32,
    /// Set before the channels of a domain that ends are closed; no port is bound from then on.
    closed: AtomicBool,
}

impl<H: Hal> EventTable<H> {
    /// No channel in use. Port 0 is never given out: many interfaces take it for "none".
    pub fn new() -> Self {
        let table = Self {
            buckets: [const { spin::Once::new() }; BUCKETS],
            allocation: Mutex::new(Rank::EventTable, ()),
            first_free: AtomicU32::new(1),
            closed: AtomicBool::new(false),
        };
        // Without memory now, the bucket comes with the first port.
        let _ = table.grow(0);
        table
    }

    /// The channel of a port; `None` for a number that was never valid, `EINVAL` to a guest.
    #[inline]
    fn channel(&self, port: Port) -> Option<&Channel<H>> {
        let port = port.0 as usize;
        self.buckets.get(port / BUCKET)?.get()?.get(port % BUCKET)
    }

    fn valid(&self, port: Port) -> Result<&Channel<H>, Errno> {
        self.channel(port).ok_or(Errno::EINVAL)
    }

    #[inline]
    fn backend(&self) -> Backend {
        Backend::TwoLevel
    }

    /// Every port that was ever valid, rising.
    fn channels(&self) -> impl Iterator<Item = (Port, &Channel<H>)> {
        self.buckets
            .iter()
            .map_while(spin::Once::get)
            .flat_map(|bucket| bucket.iter())
            .zip(0..)
            .map(|(channel, port)| (Port(port), channel))
    }

    fn grow(&self, bucket: usize) -> Result<(), Errno> {
        let place = self.buckets.get(bucket).ok_or(Errno::ENOSPC)?;
        place.try_call_once(new_bucket).map(|_| ())
    }

    fn is_closed(&self) -> bool {
        self.closed.load(SeqCst)
    }

    /// Takes the lowest free port. The caller binds it or gives it back with [`EventTable::give_back`].
    ///
    /// `EINVAL` when the domain ends, `ENOSPC` when every port is in use, `ENOMEM`.
    fn reserve(&self) -> Result<(Port, &Channel<H>), Errno> {
        let _allocation = self.allocation.lock();
        if self.is_closed() {
            return Err(Errno::EINVAL);
        }
        // A port freed while this runs lowers the mark again, so the mark is taken before the search.
        let mut port = self.first_free.swap(u32::MAX, AcqRel);
        let found = loop {
            if port >= self.backend().ports() {
                break Err(Errno::ENOSPC);
            }
            match self.channel(Port(port)) {
                Some(channel) if channel.word().binding() == Binding::Free => {
                    channel.set(Word::new(Binding::Reserved, VcpuId(0)));
                    break Ok((Port(port), channel));
                }
                Some(_) => port += 1,
                None => {
                    if let Err(errno) = self.grow(port as usize / BUCKET) {
                        break Err(errno);
                    }
                }
            }
        };
        self.first_free.fetch_min(port, AcqRel);
        found
    }

    /// Frees a port. The caller holds its lock, or reserved it.
    fn give_back(&self, port: Port, channel: &Channel<H>) {
        channel.set(Word::FREE);
        self.first_free.fetch_min(port.0, AcqRel);
    }
}

impl<H: Hal> Default for EventTable<H> {
    fn default() -> Self {
        Self::new()
    }
}

fn new_bucket<H: Hal>() -> Result<Bucket<H>, Errno> {
    let mut channels = Vec::new();
    channels
        .try_reserve_exact(BUCKET)
        .map_err(|_| Errno::ENOMEM)?;
    channels.extend((0..BUCKET).map(|_| Channel::free()));
    Bucket::try_from(channels.into_boxed_slice()).map_err(|_| Errno::ENOMEM)
}
