//! The scheduler: which vCPU runs on which physical CPU, and when.
//!
//! A run queue per CPU, each behind its own lock; nobody ever holds two. A vCPU is runnable when none of its flags (down,
//! blocked, polling) is set and neither it nor its domain is paused. Where it is, is one atomic word ([`Place`]):
//!
//! ```text
//!             claim (compare-and-swap)              schedule()
//!      Off ------------------------------> Queued ------------> Running
//!       ^   wake, unpause, up, context_saved  ^ \ not runnable     |  schedule():
//!       |                                     |  \ when taken out  |  blocked, paused, preempted,
//!       |<------------------------------------+---'                |  slice over, yield, moved away
//!       |             context_saved():        |                    v
//!       +---------------- not runnable -------+---- runnable ----- Leaving
//! ```
//!
//! A vCPU leaves `Leaving` only through `context_saved`: no other CPU loads registers that are not stored yet. No wake-up
//! is lost: who makes a vCPU runnable changes the flags *first* and looks at the place *afterwards*; who parks it writes
//! `Off` *first* and looks at the flags *afterwards* (both sequentially consistent), so at least one of them sees the
//! other, and the compare-and-swap lets exactly one put it into a queue. In the same way a vCPU that blocks sets its flag
//! first and then looks for interrupts, and who makes an interrupt pending does that first and then looks at the flag.
//! A vCPU that becomes not runnable while it is queued may stay there; it is looked at when it is taken out.

mod affinity;
mod area;
mod dump;
mod events;
pub mod handoff;
mod op;
mod place;
mod policy;
mod runstate;
mod state;
mod switch;
#[cfg(test)]
mod tests;
mod wake;

use alloc::boxed::Box;
use core::sync::atomic::{
    AtomicU32, AtomicU64,
    Ordering::{Relaxed, SeqCst},
};

use xenolith_hal::{
    AtomicCpuMask, CpuId, Hal, MAX_CPUS, Nanos,
    sync::{Mutex, Rank},
};

use crate::{Hypervisor, VcpuRef};

pub use affinity::{Affinity, DomainSched};
pub use dump::VcpuFacts;
pub(crate) use handoff::{Place, flag};
pub use op::sched_op;
use policy::{Active, Entering, Policy};
pub use runstate::{RunstateKind, RunstateTimes};
pub use state::VcpuSched;

bitflags::bitflags! {
    /// What a CPU has to look at before it enters a guest (see [`Scheduler::work`]).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Work: u32 {
        /// Call [`Hypervisor::schedule`]. Cleared there.
        const RESCHEDULE = 1 << 0;
        /// The current vCPU lets others run. Cleared with `RESCHEDULE`, always set together with it.
        const YIELD = 1 << 1;
        /// Call [`Hypervisor::timer_interrupt`]. Cleared there.
        const TIMER = 1 << 2;
        /// First bit that the architecture may use as it likes; all higher ones too.
        const ARCH = 1 << 16;
    }
}

/// One CPU's queue and what runs there.
struct RunQueue<H: Hal> {
    /// `Running` here.
    current: Option<VcpuRef<H>>,
    /// `Leaving` here, and why.
    leaving: Option<(VcpuRef<H>, Entering)>,
    /// Whether the one that leaves used up its slice: the moment to look at other CPUs' load.
    slice_over: bool,
    /// Since when `current` has its slice.
    turn_start: Nanos,
    waiting: Active<H>,
}

/// What other CPUs see of a CPU without its lock.
struct Cpu<H: Hal> {
    work: AtomicU32,
    /// How many wait in the queue.
    waiting: AtomicU32,
    /// Virtual run time of the running vCPU minus the time: what it has at time t is this plus t.
    lead: AtomicU64,
    queue: Mutex<RunQueue<H>>,
}

/// Run queues, one per CPU.
pub struct Scheduler<H: Hal> {
    cpus: [spin::Once<Box<Cpu<H>>>; MAX_CPUS],
    online: AtomicCpuMask,
    /// CPUs that have nothing to run. Who takes a CPU out of the set must give it something or kick it.
    idle: AtomicCpuMask,
    /// vCPUs that queues have room for.
    admitted: AtomicU32,
}

impl<H: Hal> Scheduler<H> {
    /// No CPU online.
    pub const fn new() -> Self {
        Self {
            cpus: [const { spin::Once::new() }; MAX_CPUS],
            online: AtomicCpuMask::empty(),
            idle: AtomicCpuMask::empty(),
            admitted: AtomicU32::new(0),
        }
    }

    /// The CPU joins. It has nothing to run, and is asked to look.
    pub fn online(&self, cpu: CpuId) {
        let Some(slot) = self.cpus.get(cpu.index()) else {
            return;
        };
        slot.call_once(|| {
            let mut waiting = Active::<H>::new();
            // Without the memory now, the queue grows when it is used.
            let _ = waiting.reserve(self.admitted.load(SeqCst) as usize);
            Box::new(Cpu {
                work: AtomicU32::new(Work::RESCHEDULE.bits()),
                waiting: AtomicU32::new(0),
                lead: AtomicU64::new(0),
                queue: Mutex::new(
                    Rank::RunQueue,
                    RunQueue {
                        current: None,
                        leaving: None,
                        slice_over: false,
                        turn_start: Nanos(0),
                        waiting,
                    },
                ),
            })
        });
        self.online.insert(cpu);
    }

    /// The CPUs that schedule.
    pub fn online_cpus(&self) -> xenolith_hal::CpuMask {
        self.online.load()
    }

    /// The CPU's work word ([`Work`] bits). Before a CPU enters a guest, with interrupts masked, it reads this word; when it is
    /// not zero it does what the bits say first. Who sets a bit for another CPU kicks it afterwards.
    #[inline]
    pub fn work(&self, cpu: CpuId) -> &AtomicU32 {
        static NOWHERE: AtomicU32 = AtomicU32::new(0);
        self.cpu(cpu).map_or(&NOWHERE, |cpu| &cpu.work)
    }

    #[inline]
    fn cpu(&self, cpu: CpuId) -> Option<&Cpu<H>> {
        Some(self.cpus.get(cpu.index())?.get()?)
    }

    /// How many vCPUs a CPU has to serve.
    fn load(&self, id: CpuId, cpu: &Cpu<H>) -> u32 {
        cpu.waiting.load(Relaxed) + u32::from(!self.idle.contains(id))
    }
}

impl<H: Hal> Default for Scheduler<H> {
    fn default() -> Self {
        Self::new()
    }
}

impl<H: Hal> Hypervisor<H> {
    /// The vCPU that runs on a CPU, for debug keys and statistics.
    pub fn current(&self, cpu: CpuId) -> Option<VcpuRef<H>> {
        self.sched.cpu(cpu)?.queue.lock().current.clone()
    }

    /// Sets work bits of a CPU and makes it look.
    pub fn add_work(&self, cpu: CpuId, work: Work) {
        self.sched.work(cpu).fetch_or(work.bits(), SeqCst);
        if cpu != self.hal.cpu() {
            self.hal.kick(cpu);
        }
    }
}
