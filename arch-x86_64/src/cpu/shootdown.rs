//! Which CPU runs which domain's guest code now, so that cached second-level translations can be made unusable.
//!
//! Who changes tables counts the change first, then makes every CPU leave that domain's guest; who enters a guest says so
//! first, then looks at the count. One of both sees the other. A CPU that left looks at the count before it enters again.

use core::sync::atomic::{
    AtomicU64, AtomicUsize,
    Ordering::{Relaxed, Release, SeqCst},
};

use xenolith_hal::{CpuId, MAX_CPUS, Mfn};

/// Low bits that tell two visits of the same guest apart.
const VISIT_BITS: u32 = 24;

/// What one CPU does: 0, or the root of the domain's tables and the number of the visit.
#[repr(align(64))]
pub struct Presence(AtomicU64);

static PRESENT: [Presence; MAX_CPUS] = [const { Presence(AtomicU64::new(0)) }; MAX_CPUS];

/// How many of the places are in use; CPUs are numbered from 0.
static CPUS: AtomicUsize = AtomicUsize::new(0);

/// The place of a CPU that joins the machine.
#[must_use]
pub fn of(cpu: CpuId) -> &'static Presence {
    // Before it enters any guest, which is what others look for.
    CPUS.fetch_max(cpu.index() + 1, SeqCst);
    &PRESENT[cpu.index() % MAX_CPUS]
}

impl Presence {
    /// The CPU is about to enter a guest with these tables. Whatever it loads afterwards is newer.
    #[inline(always)]
    pub fn enter(&self, root: Mfn, visit: u64) {
        let visit = visit & ((1 << VISIT_BITS) - 1);
        self.0.swap(root.0 << VISIT_BITS | visit, SeqCst);
    }

    /// The CPU has left the guest.
    #[inline(always)]
    pub fn leave(&self) {
        self.0.store(0, Release);
    }
}

/// Makes every other CPU leave the guest that runs with these tables, and waits until each has. The change was counted
/// before.
pub fn expel(own: CpuId, root: Mfn, kick: impl Fn(CpuId)) {
    let cpus = CPUS.load(SeqCst);
    for (cpu, presence) in (0..).map(CpuId).zip(&PRESENT).take(cpus) {
        let seen = presence.0.load(SeqCst);
        if cpu == own || seen == 0 || seen >> VISIT_BITS != root.0 {
            continue;
        }
        kick(cpu);
        while presence.0.load(Relaxed) == seen {
            core::hint::spin_loop();
        }
    }
}
