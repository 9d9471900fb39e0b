//! Timers: a heap of deadlines per CPU.
//!
//! Each vCPU has one slot per [`VcpuTimer`]. A timer is set on the CPU that sets it, in that CPU's heap, and fires there; what
//! it does then works on a vCPU that is elsewhere by now. So only a CPU's own heap ever makes its deadline earlier, and
//! no CPU asks another to program its hardware. A timer taken out leaves the hardware as it is: the CPU then looks once
//! too early, finds nothing and programs the next deadline.
//!
//! Invariants: a slot names the one heap that holds its entry, or none; it changes only under that heap's lock. Heaps have
//! room for all timers of all admitted vCPUs, so setting one allocates nothing.

mod heap;

use alloc::boxed::Box;
use core::sync::atomic::{
    AtomicU32, AtomicU64,
    Ordering::{Relaxed, SeqCst},
};

use xenolith_hal::{
    ArchTimer, CpuId, Hal, MAX_CPUS, Nanos, NoMemory,
    sync::{Mutex, Rank},
};

use crate::{Hypervisor, VcpuRef, sched::Work};
use heap::{Entry, Heap};

/// The timers of a vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VcpuTimer {
    /// `VCPUOP_set_singleshot_timer`: sends the timer virtual interrupt once.
    Singleshot,
    /// `VCPUOP_set_periodic_timer`: sends it again and again.
    Periodic,
    /// Ends a poll.
    Poll,
    /// A timer of the architecture; [`Hal::virtual_timer_fired`] is called.
    Arch(ArchTimer),
    /// A watchdog of the domain; only vCPU 0's is used.
    Watchdog(Watchdog),
}

/// One of a domain's watchdogs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watchdog {
    /// Number 1.
    First,
    /// Number 2.
    Second,
}

/// Timers per vCPU.
const SLOTS: usize = 7;

impl VcpuTimer {
    const ALL: [Self; SLOTS] = [
        Self::Singleshot,
        Self::Periodic,
        Self::Poll,
        Self::Arch(ArchTimer::A),
        Self::Arch(ArchTimer::B),
        Self::Watchdog(Watchdog::First),
        Self::Watchdog(Watchdog::Second),
    ];

    const fn index(self) -> usize {
        match self {
            Self::Singleshot => 0,
            Self::Periodic => 1,
            Self::Poll => 2,
            Self::Arch(ArchTimer::A) => 3,
            Self::Arch(ArchTimer::B) => 4,
            Self::Watchdog(Watchdog::First) => 5,
            Self::Watchdog(Watchdog::Second) => 6,
        }
    }
}

/// Which heap holds a timer, and where in it.
struct Slot {
    /// The CPU plus one in the high half, the position in the low half; 0 when not set.
    word: AtomicU64,
}

impl Slot {
    const fn new() -> Self {
        Self {
            word: AtomicU64::new(0),
        }
    }

    fn get(&self) -> Option<(CpuId, usize)> {
        let word = self.word.load(SeqCst);
        let cpu = (word >> 32).checked_sub(1)?;
        Some((CpuId(cpu as u16), word as u32 as usize))
    }

    /// Names the heap; false when another CPU was faster.
    fn claim(&self, cpu: CpuId) -> bool {
        let word = (u64::from(cpu.0) + 1) << 32;
        self.word.compare_exchange(0, word, SeqCst, SeqCst).is_ok()
    }

    /// The entry moved inside its heap.
    fn set_position(&self, at: usize) {
        let word = self.word.load(Relaxed);
        self.word
            .store((word >> 32) << 32 | at as u64 & 0xffff_ffff, SeqCst);
    }

    fn release(&self) {
        self.word.store(0, SeqCst);
    }
}

/// A vCPU's timer slots.
pub struct VcpuTimers {
    slots: [Slot; SLOTS],
    /// Nanoseconds between two periodic timer interrupts; 0 when stopped.
    pub(crate) period: AtomicU64,
}

impl VcpuTimers {
    /// No timer set.
    pub const fn new() -> Self {
        Self {
            slots: [const { Slot::new() }; SLOTS],
            period: AtomicU64::new(0),
        }
    }

    #[allow(clippy::indexing_slicing, reason = "`index` is below the length")]
    fn slot(&self, which: VcpuTimer) -> &Slot {
        &self.slots[which.index()]
    }
}

impl Default for VcpuTimers {
    fn default() -> Self {
        Self::new()
    }
}

/// One CPU's timers.
struct CpuTimers<H: Hal> {
    /// When the time slice is looked at; only the CPU itself sets it. `u64::MAX`: never.
    slice: AtomicU64,
    inner: Mutex<Inner<H>>,
}

struct Inner<H: Hal> {
    heap: Heap<H>,
    /// What the hardware is set to.
    programmed: Nanos,
}

/// Every CPU's timers.
pub struct Timers<H: Hal> {
    cpus: [spin::Once<Box<CpuTimers<H>>>; MAX_CPUS],
    /// Timers that heaps have room for.
    reserved: AtomicU32,
}

impl<H: Hal> Default for Timers<H> {
    fn default() -> Self {
        Self::new()
    }
}

impl<H: Hal> Timers<H> {
    /// No timer set.
    pub const fn new() -> Self {
        Self {
            cpus: [const { spin::Once::new() }; MAX_CPUS],
            reserved: AtomicU32::new(0),
        }
    }

    #[inline]
    fn cpu(&self, cpu: CpuId) -> Option<&CpuTimers<H>> {
        let slot = self.cpus.get(cpu.index())?;
        match slot.get() {
            Some(timers) => Some(timers),
            None => Some(self.first_use(slot)),
        }
    }

    #[cold]
    fn first_use<'a>(&self, slot: &'a spin::Once<Box<CpuTimers<H>>>) -> &'a CpuTimers<H> {
        slot.call_once(|| {
            let mut heap = Heap::new();
            // Without the memory now, the heap grows when it is used.
            let _ = heap.reserve(self.reserved.load(SeqCst) as usize);
            Box::new(CpuTimers {
                slice: AtomicU64::new(u64::MAX),
                inner: Mutex::new(
                    Rank::Timers,
                    Inner {
                        heap,
                        programmed: Nanos::MAX,
                    },
                ),
            })
        })
    }

    /// Makes room for the timers of `vcpus` more vCPUs in every CPU's heap.
    pub(crate) fn admit(&self, vcpus: u32) -> Result<(), NoMemory> {
        let more = vcpus.saturating_mul(SLOTS as u32);
        let total = self.reserved.fetch_add(more, SeqCst).saturating_add(more);
        for cpu in self.cpus.iter().filter_map(spin::Once::get) {
            if let Err(error) = cpu.inner.lock().heap.reserve(total as usize) {
                self.reserved.fetch_sub(more, SeqCst);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Undoes [`Self::admit`]. The heaps keep their memory for later vCPUs.
    pub(crate) fn dismiss(&self, vcpus: u32) {
        let less = vcpus.saturating_mul(SLOTS as u32);
        self.reserved.fetch_sub(less, SeqCst);
    }

    /// When a CPU looks at its time slice; the end of time for never.
    pub(crate) fn slice(&self, cpu: CpuId) -> Nanos {
        self.cpu(cpu)
            .map_or(Nanos::MAX, |cpu| Nanos(cpu.slice.load(Relaxed)))
    }

    /// How many timers are set on a CPU, and the earliest deadline.
    pub fn summary(&self, cpu: CpuId) -> (usize, Option<Nanos>) {
        self.cpu(cpu).map_or((0, None), |cpu| {
            let inner = cpu.inner.lock();
            (inner.heap.len(), inner.heap.earliest())
        })
    }
}

impl<H: Hal> Inner<H> {
    /// Programs the hardware of this CPU if it would be late for the deadline.
    fn cover(&mut self, hal: &H, deadline: Nanos) {
        if deadline < self.programmed {
            self.programmed = deadline;
            hal.set_timer(Some(deadline));
        }
    }
}

impl<H: Hal> Hypervisor<H> {
    /// Sets a vCPU's timer, replacing an earlier setting. It fires at or after `deadline`, never before; a deadline in the
    /// past fires at once. Allocates nothing for an admitted vCPU.
    pub fn set_timer(&self, vcpu: &VcpuRef<H>, which: VcpuTimer, deadline: Nanos) {
        let here = self.hal.cpu();
        let Some(cpu) = self.timers.cpu(here) else {
            return;
        };
        let slot = vcpu.timers.slot(which);
        loop {
            if slot.get().is_some_and(|(home, _)| home != here) {
                self.cancel_timer(vcpu, which);
            }
            let mut inner = cpu.inner.lock();
            match slot.get() {
                Some((home, at)) if home == here => inner.heap.change(at, deadline),
                None if slot.claim(here) => inner.heap.push(Entry {
                    deadline,
                    vcpu: vcpu.clone(),
                    which,
                }),
                // Another CPU sets the same timer in this moment: one of the two is last.
                _ => continue,
            }
            inner.cover(&self.hal, deadline);
            return;
        }
    }

    /// Stops a vCPU's timer; true if it was set. One that is just firing on another CPU may still have its effect.
    pub fn cancel_timer(&self, vcpu: &VcpuRef<H>, which: VcpuTimer) -> bool {
        let slot = vcpu.timers.slot(which);
        while let Some((home, _)) = slot.get() {
            let Some(cpu) = self.timers.cpu(home) else {
                return false;
            };
            let mut inner = cpu.inner.lock();
            if let Some((still, at)) = slot.get()
                && still == home
            {
                let entry = inner.heap.remove(at);
                slot.release();
                drop(inner);
                return entry.is_some();
            }
        }
        false
    }

    /// Stops all timers of a vCPU.
    pub(crate) fn cancel_timers(&self, vcpu: &VcpuRef<H>) {
        vcpu.timers.period.store(0, SeqCst);
        for which in VcpuTimer::ALL {
            self.cancel_timer(vcpu, which);
        }
    }

    /// Has this CPU look at its time slice at `until` or earlier.
    #[inline]
    pub(crate) fn arm_slice(&self, here: CpuId, until: Option<Nanos>) {
        let Some(until) = until else { return };
        let Some(cpu) = self.timers.cpu(here) else {
            return;
        };
        // A slice that was armed earlier for another vCPU stays: the CPU looks then, and arms it again.
        if until.0 < cpu.slice.load(Relaxed) {
            cpu.slice.store(until.0, Relaxed);
            cpu.inner.lock().cover(&self.hal, until);
        }
    }

    /// Runs the timers of this CPU that are due and programs its hardware for the next. Called for the hardware timer's
    /// interrupt, and where [`Work::TIMER`] is set.
    pub fn timer_interrupt(&self, here: CpuId) {
        let Some(cpu) = self.timers.cpu(here) else {
            return;
        };
        self.sched.work(here).fetch_and(!Work::TIMER.bits(), SeqCst);
        let now = self.hal.now();
        if cpu.slice.load(Relaxed) <= now.0 {
            cpu.slice.store(u64::MAX, Relaxed);
            self.add_work(here, Work::RESCHEDULE);
        }
        loop {
            let mut inner = cpu.inner.lock();
            let Some(entry) = inner.heap.pop_due(now) else {
                let slice = Nanos(cpu.slice.load(Relaxed));
                let next = inner.heap.earliest().map_or(slice, |next| next.min(slice));
                inner.programmed = next;
                self.hal.set_timer((next != Nanos::MAX).then_some(next));
                return;
            };
            entry.vcpu.timers.slot(entry.which).release();
            drop(inner);
            self.fire(&entry);
        }
    }

    fn fire(&self, entry: &Entry<H>) {
        let vcpu = &entry.vcpu;
        match entry.which {
            VcpuTimer::Singleshot => self.send_timer_virq(vcpu),
            VcpuTimer::Periodic => {
                let period = vcpu.timers.period.load(SeqCst);
                if period != 0 {
                    // Periods that were missed are not made up for.
                    let next = entry.deadline.plus(Nanos(period)).max(self.hal.now());
                    self.set_timer(vcpu, VcpuTimer::Periodic, next);
                    self.send_timer_virq(vcpu);
                }
            }
            VcpuTimer::Poll => self.poll_timed_out(vcpu),
            VcpuTimer::Arch(timer) => {
                let next = self
                    .hal
                    .virtual_timer_fired(&vcpu.domain().arch, &vcpu.arch, timer);
                if let Some(next) = next {
                    self.set_timer(vcpu, entry.which, next);
                }
                self.notify(vcpu);
            }
            VcpuTimer::Watchdog(_) => self.watchdog_expired(vcpu),
        }
    }
}
