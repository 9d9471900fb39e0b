//! Where a domain's channels are: in buckets of 64 that come as ports are needed and stay until the domain goes, so that
//! a port is found without a lock.
//!
//! The buckets of the ports of the two-level ABI hang in the domain itself; those beyond, which only the FIFO ABI has, hang
//! in groups that come like buckets do. What this takes of the hypervisor's heap is charged to the domain, in whole
//! frames; only the first bucket is part of what every domain costs.

use alloc::boxed::Box;
use core::sync::atomic::{
    AtomicU64,
    Ordering::{AcqRel, Relaxed},
};

use xenolith_abi::{
    Errno, Port,
    event_channel::{CHANNELS_2L, CHANNELS_FIFO},
};
use xenolith_hal::{Hal, PAGE_SIZE};

use super::channel::Channel;
use crate::memory::{Charge, DomainMemory, try_boxed_slice};

const BUCKET: usize = 64;
/// Buckets that hang in the table itself, and as many in a group.
const GROUP: usize = CHANNELS_2L as usize / BUCKET;
const GROUPS: usize = CHANNELS_FIFO as usize / BUCKET / GROUP - 1;

type Bucket<H> = Box<[Channel<H>]>;
type Slot<H> = spin::Once<Bucket<H>>;
type Group<H> = Box<[Slot<H>]>;

/// The channels of a domain.
pub(super) struct Buckets<H: Hal> {
    low: [Slot<H>; GROUP],
    high: [spin::Once<Group<H>>; GROUPS],
    /// Bytes that came after the first bucket.
    bytes: AtomicU64,
    /// Frames charged for them.
    charged: AtomicU64,
}

impl<H: Hal> Buckets<H> {
    /// Ports 0 to 63; without memory now, they come with the first port.
    pub(super) fn new() -> Self {
        let buckets = Self {
            low: [const { spin::Once::new() }; GROUP],
            high: [const { spin::Once::new() }; GROUPS],
            bytes: AtomicU64::new(0),
            charged: AtomicU64::new(0),
        };
        if let Some(first) = buckets.low.first() {
            let _ = first.try_call_once(new_bucket);
        }
        buckets
    }

    /// The channel of a port; `None` where no bucket is yet.
    #[inline]
    pub(super) fn get(&self, port: Port) -> Option<&Channel<H>> {
        let port = port.0 as usize;
        let slot = match self.low.get(port / BUCKET) {
            Some(slot) => slot,
            None => self.high_slot(port / BUCKET)?,
        };
        slot.get()?.get(port % BUCKET)
    }

    fn high_slot(&self, bucket: usize) -> Option<&Slot<H>> {
        let group = self.high.get((bucket / GROUP).checked_sub(1)?)?.get()?;
        group.get(bucket % GROUP)
    }

    /// Adds the bucket of a port on the account of the domain. The caller sees to it that nobody else adds one meanwhile.
    ///
    /// `ENOSPC` beyond the last port, `ENOMEM` without memory or quota.
    pub(super) fn grow(&self, port: Port, account: &DomainMemory) -> Result<(), Errno> {
        let bucket = port.0 as usize / BUCKET;
        if let Some(slot) = self.low.get(bucket) {
            return match bucket {
                0 => slot.try_call_once(new_bucket).map(drop),
                _ => self.fill(slot, BUCKET, account, new_bucket),
            };
        }
        let group = (bucket / GROUP)
            .checked_sub(1)
            .and_then(|group| self.high.get(group))
            .ok_or(Errno::ENOSPC)?;
        if group.get().is_none() {
            self.fill(group, GROUP, account, new_group)?;
        }
        let slot = self.high_slot(bucket).ok_or(Errno::ENOSPC)?;
        self.fill(slot, BUCKET, account, new_bucket)
    }

    fn fill<T>(
        &self,
        slot: &spin::Once<Box<[T]>>,
        items: usize,
        account: &DomainMemory,
        make: fn() -> Result<Box<[T]>, Errno>,
    ) -> Result<(), Errno> {
        let bytes = (items * size_of::<T>()) as u64;
        self.charge(bytes, account)?;
        slot.try_call_once(make)
            .map(drop)
            .inspect_err(|_| self.uncharge(bytes, account))
    }

    /// Counts heap that is spent for the domain's ports.
    pub(super) fn charge(&self, bytes: u64, account: &DomainMemory) -> Result<(), Errno> {
        let before = self.bytes.load(Relaxed);
        let more = frames(before + bytes) - frames(before);
        account
            .charge(Charge::Hypervisor, more)
            .map_err(|_| Errno::ENOMEM)?;
        self.bytes.store(before + bytes, Relaxed);
        self.charged.fetch_add(more, Relaxed);
        Ok(())
    }

    /// Takes back what [`Buckets::charge`] counted last.
    pub(super) fn uncharge(&self, bytes: u64, account: &DomainMemory) {
        let before = self.bytes.load(Relaxed);
        let less = frames(before) - frames(before - bytes);
        self.bytes.store(before - bytes, Relaxed);
        self.charged.fetch_sub(less, Relaxed);
        account.uncharge(Charge::Hypervisor, less);
    }

    /// Takes everything off the domain's account. The domain ends: no bucket is added any more.
    pub(super) fn settle(&self, account: &DomainMemory) {
        let charged = self.charged.swap(0, AcqRel);
        if charged != 0 {
            account.uncharge(Charge::Hypervisor, charged);
        }
    }

    /// Frames that are charged to the domain.
    pub(super) fn charged(&self) -> u64 {
        self.charged.load(Relaxed)
    }

    /// Every channel there is, rising.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Port, &Channel<H>)> {
        let high = self.high.iter().filter_map(spin::Once::get);
        self.low
            .iter()
            .chain(high.flat_map(|group| group.iter()))
            .map_while(spin::Once::get)
            .flat_map(|bucket| bucket.iter())
            .zip(0..)
            .map(|(channel, port)| (Port(port), channel))
    }
}

const fn frames(bytes: u64) -> u64 {
    bytes.div_ceil(PAGE_SIZE as u64)
}

fn new_bucket<H: Hal>() -> Result<Bucket<H>, Errno> {
    try_boxed_slice((0..BUCKET).map(|_| Channel::free())).map_err(|_| Errno::ENOMEM)
}

fn new_group<H: Hal>() -> Result<Group<H>, Errno> {
    try_boxed_slice((0..GROUP).map(|_| spin::Once::new())).map_err(|_| Errno::ENOMEM)
}

#[cfg(test)]
mod tests {
    use super::*;
    use xenolith_sim::Sim;

    fn account(quota: u64) -> DomainMemory {
        let account = DomainMemory::new(0);
        account.hypervisor_max.store(quota, Relaxed);
        account
    }

    fn fill(quota: u64) -> (Buckets<Sim>, DomainMemory, u32) {
        let (buckets, account) = (Buckets::new(), account(quota));
        let port = (0..).find(|port| {
            let port = Port(*port);
            buckets.get(port).is_none() && buckets.grow(port, &account).is_err()
        });
        (buckets, account, port.unwrap())
    }

    #[test]
    fn a_domain_without_quota_has_the_ports_that_every_domain_has() {
        let (buckets, account, ports) = fill(0);
        assert_eq!(ports, BUCKET as u32);
        assert_eq!(
            (buckets.charged(), account.hypervisor.load(Relaxed)),
            (0, 0)
        );
    }

    #[test]
    fn ports_end_where_the_quota_does_and_what_they_take_is_charged() {
        let (buckets, account, ports) = fill(9);
        let bytes = (ports as usize - BUCKET) * size_of::<Channel<Sim>>();
        assert_eq!(frames(bytes as u64), 9);
        assert_eq!(account.hypervisor.load(Relaxed), 9);
        buckets.settle(&account);
        buckets.settle(&account);
        assert_eq!(account.hypervisor.load(Relaxed), 0);
    }

    #[test]
    fn all_ports_of_the_fifo_abi_have_a_channel() {
        let (buckets, account, ports) = fill(u64::MAX);
        assert_eq!(ports, CHANNELS_FIFO);
        let numbered = |(n, (port, _)): (u32, (Port, _))| port == Port(n);
        assert!((0..).zip(buckets.iter()).all(numbered));
        assert_eq!(buckets.iter().count(), CHANNELS_FIFO as usize);
        assert_eq!(account.hypervisor.load(Relaxed), buckets.charged());
        assert_eq!(
            buckets.grow(Port(CHANNELS_FIFO), &account),
            Err(Errno::ENOSPC)
        );
    }
}
