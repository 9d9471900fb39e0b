//! What a domain has mapped of others' grants, by handle.
//!
//! A handle is an index into rows of chunks of slots, which grow as needed and stay until the domain goes, so a slot is
//! found without a lock. Free slots form a stack whose head is one tagged word. A mapping is *taken out* of its slot while
//! it is undone: two vCPUs that unmap one handle cannot both have it.

use alloc::boxed::Box;
use core::sync::atomic::{
    AtomicU32, AtomicU64,
    Ordering::{AcqRel, Acquire, Relaxed},
};

use xenolith_abi::{GrantHandle, GrantRef, grant_table::MapFlags};
use xenolith_hal::{
    Gfn, Hal, Mfn, NoMemory, PAGE_SIZE,
    sync::{Mutex, Rank},
};

use crate::{
    DomainRef,
    memory::{Charge, DomainMemory, try_boxed_slice},
};

/// Slots of a chunk, and chunks of a row, and rows.
const CHUNK: usize = 256;
const ROW: usize = 32;
const ROWS: usize = 32;
/// Most mappings of a domain: 1024 frames of 16-byte records, Xen's own limit.
pub(super) const HANDLES: u32 = (CHUNK * ROW * ROWS) as u32;

/// The end of the list of free slots.
const END: u32 = u32::MAX;

/// A live mapping.
pub(super) struct Mapping<H: Hal> {
    pub(super) granter: DomainRef<H>,
    pub(super) gref: GrantRef,
    /// Where the mapper sees it; of a paravirtual one, what it said first.
    pub(super) gfn: Gfn,
    pub(super) mfn: Mfn,
    pub(super) flags: MapFlags,
}

struct Slot<H: Hal> {
    next_free: AtomicU32,
    mapping: Mutex<Option<Mapping<H>>>,
}

type Chunk<H> = Box<[Slot<H>]>;
type Row<H> = Box<[spin::Once<Chunk<H>>]>;

/// The table of handles.
pub(super) struct Maptrack<H: Hal> {
    /// The first chunk, which is all that most domains have; its place in `rows` stays empty.
    first: spin::Once<Chunk<H>>,
    rows: [spin::Once<Row<H>>; ROWS],
    /// First free slot in the low half; the high half changes with every change, so that a stale head is noticed.
    free: AtomicU64,
    /// Handles that exist.
    size: Mutex<u32>,
}

impl<H: Hal> Maptrack<H> {
    pub(super) const fn new() -> Self {
        Self {
            first: spin::Once::new(),
            rows: [const { spin::Once::new() }; ROWS],
            free: AtomicU64::new(END as u64),
            size: Mutex::new(Rank::Grant, 0),
        }
    }

    #[inline(always)]
    fn slot(&self, handle: u32) -> Option<&Slot<H>> {
        let at = handle as usize;
        match at < CHUNK {
            true => self.first.get()?.get(at),
            false => self.later_slot(at),
        }
    }

    #[inline(never)]
    fn later_slot(&self, at: usize) -> Option<&Slot<H>> {
        self.rows
            .get(at / (CHUNK * ROW))?
            .get()?
            .get(at / CHUNK % ROW)?
            .get()?
            .get(at % CHUNK)
    }

    /// A handle that nobody uses. New slots are charged to `account` and counted in `charged`.
    #[inline]
    pub(super) fn take_handle(
        &self,
        account: &DomainMemory,
        charged: &AtomicU64,
    ) -> Result<GrantHandle, NoMemory> {
        match self.pop() {
            Some(handle) => Ok(GrantHandle(handle)),
            None => self.take_new_handle(account, charged),
        }
    }

    #[cold]
    #[inline(never)]
    fn take_new_handle(
        &self,
        account: &DomainMemory,
        charged: &AtomicU64,
    ) -> Result<GrantHandle, NoMemory> {
        loop {
            self.grow(account, charged)?;
            if let Some(handle) = self.pop() {
                return Ok(GrantHandle(handle));
            }
        }
    }

    #[inline]
    fn pop(&self) -> Option<u32> {
        let mut head = self.free.load(Acquire);
        loop {
            let first = head as u32;
            let next = self.slot(first)?.next_free.load(Relaxed);
            match self
                .free
                .compare_exchange_weak(head, tagged(head, next), AcqRel, Acquire)
            {
                Ok(_) => return Some(first),
                Err(now) => head = now,
            }
        }
    }

    /// Gives a handle back whose slot is empty.
    pub(super) fn give_back(&self, GrantHandle(handle): GrantHandle) {
        self.push(handle, handle);
    }

    /// Pushes the slots from `first` to `last`, which lead to each other.
    fn push(&self, first: u32, last: u32) {
        let Some(slot) = self.slot(last) else { return };
        let mut head = self.free.load(Acquire);
        loop {
            slot.next_free.store(head as u32, Relaxed);
            match self
                .free
                .compare_exchange_weak(head, tagged(head, first), AcqRel, Acquire)
            {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }

    fn grow(&self, account: &DomainMemory, charged: &AtomicU64) -> Result<(), NoMemory> {
        let mut size = self.size.lock();
        if self.free.load(Acquire) as u32 != END {
            return Ok(());
        }
        let first = *size;
        if first >= HANDLES {
            return Err(NoMemory);
        }
        let frames = (CHUNK * size_of::<Slot<H>>()).div_ceil(PAGE_SIZE) as u64;
        account.charge(Charge::Hypervisor, frames)?;
        if let Err(no_memory) = self.add_chunk(first) {
            account.uncharge(Charge::Hypervisor, frames);
            return Err(no_memory);
        }
        charged.fetch_add(frames, Relaxed);
        *size = first + CHUNK as u32;
        self.push(first, *size - 1);
        Ok(())
    }

    fn add_chunk(&self, first: u32) -> Result<(), NoMemory> {
        let slots = || {
            try_boxed_slice((0..CHUNK).map(|n| Slot {
                next_free: AtomicU32::new(first.wrapping_add(n as u32 + 1)),
                mapping: Mutex::new(Rank::Grant, None),
            }))
        };
        if first == 0 {
            self.first.try_call_once(slots)?;
            return Ok(());
        }
        let at = first as usize;
        let row = self.rows.get(at / (CHUNK * ROW)).ok_or(NoMemory)?;
        let row = row.try_call_once(|| try_boxed_slice((0..ROW).map(|_| spin::Once::new())))?;
        let chunk = row.get(at / CHUNK % ROW).ok_or(NoMemory)?;
        chunk.try_call_once(slots)?;
        Ok(())
    }

    /// Puts back what was taken out.
    #[cold]
    #[inline(never)]
    pub(super) fn put_back(&self, handle: GrantHandle, mapping: Mapping<H>) {
        self.put(handle, mapping);
    }

    /// Puts a mapping into the slot of a handle that the caller holds.
    #[inline(always)]
    pub(super) fn put(&self, GrantHandle(handle): GrantHandle, mapping: Mapping<H>) {
        if let Some(slot) = self.slot(handle) {
            *slot.mapping.lock() = Some(mapping);
        }
    }

    /// Takes the mapping of a handle out of its slot; `None` when there is none, or another vCPU is at it.
    pub(super) fn take(&self, GrantHandle(handle): GrantHandle) -> Option<Mapping<H>> {
        self.slot(handle)?.mapping.lock().take()
    }

    /// Every handle that may have a mapping.
    pub(super) fn handles(&self) -> impl Iterator<Item = GrantHandle> {
        let size = *self.size.lock();
        (0..size).map(GrantHandle)
    }

    /// Looks at the mapping of a handle.
    pub(super) fn with<R>(
        &self,
        GrantHandle(handle): GrantHandle,
        f: impl FnOnce(&Mapping<H>) -> R,
    ) -> Option<R> {
        self.slot(handle)?.mapping.lock().as_ref().map(f)
    }
}

/// A new head with the tag after that of `old`.
const fn tagged(old: u64, first: u32) -> u64 {
    ((old >> 32).wrapping_add(1) << 32) | first as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use xenolith_sim::Sim;

    fn frames(limit: u64) -> DomainMemory {
        let account = DomainMemory::new(0);
        account.hypervisor_max.store(limit, Relaxed);
        account
    }

    #[test]
    fn handles_are_unique_until_given_back() {
        let track = Maptrack::<Sim>::new();
        let (account, charged) = (frames(1000), AtomicU64::new(0));
        let take = || track.take_handle(&account, &charged).unwrap();
        let all: HashSet<_> = (0..600).map(|_| take()).collect();
        assert_eq!(all.len(), 600);
        track.give_back(GrantHandle(77));
        assert_eq!(take(), GrantHandle(77));
        assert_eq!(charged.load(Relaxed), account.hypervisor.load(Relaxed));
    }

    #[test]
    fn without_quota_there_is_no_handle() {
        let track = Maptrack::<Sim>::new();
        let charged = AtomicU64::new(0);
        assert!(track.take_handle(&frames(1), &charged).is_err());
        assert_eq!(charged.load(Relaxed), 0);
        assert!(track.take_handle(&frames(10), &charged).is_ok());
    }

    #[test]
    fn handles_end_at_the_limit() {
        let track = Maptrack::<Sim>::new();
        let (account, charged) = (frames(u64::MAX), AtomicU64::new(0));
        let count = (0..)
            .take_while(|_| track.take_handle(&account, &charged).is_ok())
            .count();
        assert_eq!(count, HANDLES as usize);
    }

    #[test]
    fn threads_never_hold_the_same_handle() {
        let track = Maptrack::<Sim>::new();
        let (account, charged) = (frames(1000), AtomicU64::new(0));
        let held: Vec<_> = (0..1024).map(|_| AtomicU32::new(0)).collect();
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for _ in 0..3000 {
                        let handle = track.take_handle(&account, &charged).unwrap();
                        let owners = &held[handle.0 as usize];
                        assert_eq!(owners.fetch_add(1, AcqRel), 0);
                        owners.fetch_sub(1, AcqRel);
                        track.give_back(handle);
                    }
                });
            }
        });
    }

    use alloc::vec::Vec;
}
