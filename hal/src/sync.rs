//! Locks with a rank.
//!
//! A CPU takes locks in ascending rank; debug builds check that and panic on a wrong order, so a possible deadlock
//! shows in the first test that walks the path, not in the field. The table of ranks with what each protects is in
//! `docs/locks.md`. Interrupts are masked whenever hypervisor code runs, so a plain spin lock is enough.

mod phase_fair;
mod shared;

pub use shared::{Reading, SharedLock, Writing};

/// The atomics of the locks here; a model puts its own in their place.
mod atomic {
    pub(super) use super::relax as spin_loop;
    pub(super) use core::sync::atomic::{AtomicU32, Ordering};
}

static WHILE_WAITING: spin::Once<fn()> = spin::Once::new();

/// Says what a CPU does while it waits for a lock: answer others that wait for it, and may hold the lock. It takes no lock
/// itself. Only the first one said counts.
pub fn while_waiting(answer: fn()) {
    WHILE_WAITING.call_once(|| answer);
}

/// One turn of a loop that waits for another CPU.
#[inline]
pub fn relax() {
    core::hint::spin_loop();
    if let Some(answer) = WHILE_WAITING.get() {
        answer();
    }
}

/// How locks of `spin` wait: as [`relax`] does, so that who waits still answers requests of other CPUs.
pub struct Relax;

impl spin::RelaxStrategy for Relax {
    #[inline]
    fn relax() {
        relax();
    }
}

/// The place of a lock in the global order. A CPU that holds a lock takes only locks of a higher rank.
/// Same-rank pairs (two domains' grant tables, two event channels) are taken through [`Mutex::lock_pair`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Rank {
    /// Domain list shards.
    DomainTable = 1,
    /// A domain's life cycle (creation, destruction).
    Domain = 2,
    /// A domain's grant table (granter side) and its mapping table.
    Grant = 3,
    /// A domain's event-channel table (structure: growth, allocation of ports).
    EventTable = 4,
    /// One event channel.
    EventChannel = 5,
    /// A port of a domain in the FIFO ABI goes to another queue.
    EventMove = 6,
    /// One queue of events of a vCPU in the FIFO ABI.
    EventQueue = 7,
    /// Small per-vCPU settings (affinity, registered areas).
    Vcpu = 8,
    /// A virtual interrupt controller's shared state.
    Interrupts = 9,
    /// A virtual interrupt controller's per-vCPU state.
    VcpuInterrupts = 10,
    /// What a domain's memory calls do to its physical map, one at a time.
    Physmap = 11,
    /// A domain's second-level tables.
    P2m = 12,
    /// A physical CPU's run queue.
    RunQueue = 13,
    /// A physical CPU's timers.
    Timers = 14,
    /// The hypervisor's own heap, which grows by frames.
    Heap = 15,
    /// The frame allocator; also the hypervisor's own page tables.
    Frames = 16,
    /// The console.
    Console = 17,
}

/// A spin lock with a [`Rank`].
pub struct Mutex<T> {
    inner: spin::mutex::Mutex<T, Relax>,
    // Without the check it would only keep zeroed data out of the part of an image that costs nothing.
    #[cfg(debug_assertions)]
    rank: Rank,
}

/// Holds a [`Mutex`] until dropped.
pub struct MutexGuard<'a, T> {
    inner: spin::MutexGuard<'a, T>,
    #[cfg(debug_assertions)]
    rank: Rank,
}

impl<T> Mutex<T> {
    /// An open lock around `value`.
    pub const fn new(rank: Rank, value: T) -> Self {
        #[cfg(not(debug_assertions))]
        let _ = rank;
        Self {
            inner: spin::mutex::Mutex::new(value),
            #[cfg(debug_assertions)]
            rank,
        }
    }

    /// Waits for the lock.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        #[cfg(debug_assertions)]
        order::enter(self.rank, false);
        MutexGuard {
            inner: self.inner.lock(),
            #[cfg(debug_assertions)]
            rank: self.rank,
        }
    }

    /// Takes the lock if it is free.
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        let inner = self.inner.try_lock()?;
        #[cfg(debug_assertions)]
        order::enter(self.rank, true);
        Some(MutexGuard {
            inner,
            #[cfg(debug_assertions)]
            rank: self.rank,
        })
    }

    /// Takes two different locks of the same rank, lower address first, so that two CPUs never wait for each other.
    pub fn lock_pair<'a>(&'a self, other: &'a Self) -> (MutexGuard<'a, T>, MutexGuard<'a, T>) {
        debug_assert!(!core::ptr::eq(self, other), "a lock is taken twice");
        if core::ptr::from_ref(self) < core::ptr::from_ref(other) {
            let first = self.lock();
            (first, other.lock_same_rank())
        } else {
            let second = other.lock();
            (self.lock_same_rank(), second)
        }
    }

    fn lock_same_rank(&self) -> MutexGuard<'_, T> {
        #[cfg(debug_assertions)]
        order::enter(self.rank, true);
        MutexGuard {
            inner: self.inner.lock(),
            #[cfg(debug_assertions)]
            rank: self.rank,
        }
    }

    /// The value, when nobody else can hold the lock.
    pub fn get_mut(&mut self) -> &mut T {
        self.inner.get_mut()
    }
}

impl<T> core::ops::Deref for MutexGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T> core::ops::DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.inner
    }
}

#[cfg(debug_assertions)]
impl<T> Drop for MutexGuard<'_, T> {
    fn drop(&mut self) {
        order::leave(self.rank);
    }
}

#[cfg(debug_assertions)]
pub use order::set_cpu_hook;

#[cfg(debug_assertions)]
mod order {
    //! Which ranks each CPU holds: a count per rank.
    use super::Rank;
    use crate::{CpuId, MAX_CPUS};
    use core::sync::atomic::{AtomicU8, Ordering::Relaxed};

    const RANKS: usize = 18;
    static HELD: [[AtomicU8; RANKS]; MAX_CPUS] =
        [const { [const { AtomicU8::new(0) }; RANKS] }; MAX_CPUS];
    static HOOK: spin::Once<fn() -> Option<CpuId>> = spin::Once::new();

    /// Tells the checker how to find the executing CPU. Without a hook, or where it gives `None`, nothing is checked.
    pub fn set_cpu_hook(hook: fn() -> Option<CpuId>) {
        HOOK.call_once(|| hook);
    }

    fn held() -> Option<&'static [AtomicU8; RANKS]> {
        HELD.get(HOOK.get()?()?.index())
    }

    pub(super) fn enter(rank: Rank, same_allowed: bool) {
        let Some(held) = held() else { return };
        let highest = held.iter().rposition(|n| n.load(Relaxed) != 0);
        let fine =
            highest.is_none_or(|top| top < rank as usize || (same_allowed && top == rank as usize));
        assert!(
            fine,
            "lock order: {rank:?} taken while rank {highest:?} is held"
        );
        held[rank as usize].fetch_add(1, Relaxed);
    }

    pub(super) fn leave(rank: Rank) {
        if let Some(held) = held() {
            // A lock that was taken before there was a hook was not counted.
            let _ = held[rank as usize].fetch_update(Relaxed, Relaxed, |n| n.checked_sub(1));
        }
    }
}
