//! TLBs that remember every translation until they are flushed, so that a test sees one that was kept too long.
//!
//! A test puts a translation into a CPU's TLB as a page walk would ([`Tlbs::fill`]) and asks what is still there.

use std::{
    collections::HashSet,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
};

use xenolith_hal::{CpuId, Mfn};

#[derive(Default)]
struct Tlb {
    /// The moment of its last flush.
    flushed: u64,
    /// Frames that it leads to, and whether for writing.
    entries: HashSet<(Mfn, bool)>,
}

/// The TLBs of all CPUs.
pub struct Tlbs {
    clock: AtomicU64,
    cpus: Box<[Mutex<Tlb>]>,
    flushes: AtomicU64,
}

impl Tlbs {
    pub(crate) fn new(cpus: u16) -> Self {
        Self {
            clock: AtomicU64::new(1),
            cpus: (0..cpus).map(|_| Mutex::default()).collect(),
            flushes: AtomicU64::new(0),
        }
    }

    fn each(&self, mut f: impl FnMut(&mut Tlb)) {
        for tlb in &self.cpus {
            f(&mut tlb.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// The clock of flushes.
    pub fn stamp(&self) -> u64 {
        self.clock.load(SeqCst)
    }

    /// A CPU walked to a frame.
    pub fn fill(&self, cpu: CpuId, mfn: Mfn, writable: bool) {
        let mut tlb = self.cpus[cpu.index()]
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        tlb.entries.insert((mfn, writable));
    }

    /// Flushes one CPU.
    pub fn flush(&self, cpu: CpuId) {
        let mut tlb = self.cpus[cpu.index()]
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        tlb.entries.clear();
        tlb.flushed = self.clock.fetch_add(1, SeqCst) + 1;
    }

    pub(crate) fn flush_stale(&self, stamp: u64) {
        self.each(|tlb| {
            if tlb.flushed <= stamp {
                tlb.entries.clear();
                tlb.flushed = self.clock.fetch_add(1, SeqCst) + 1;
                self.flushes.fetch_add(1, SeqCst);
            }
        });
    }

    /// Drops every translation that leads to a frame.
    pub(crate) fn forget(&self, mfn: Mfn) {
        self.each(|tlb| tlb.entries.retain(|(leads_to, _)| *leads_to != mfn));
    }

    /// How many flushes the hypervisor asked for by itself.
    pub fn forced(&self) -> u64 {
        self.flushes.load(SeqCst)
    }

    /// Whether any CPU might still write to the frame.
    pub fn may_write(&self, mfn: Mfn) -> bool {
        let mut found = false;
        self.each(|tlb| found |= tlb.entries.contains(&(mfn, true)));
        found
    }
}
