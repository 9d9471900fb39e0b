//! TLBs that remember every translation until they are flushed, so that a test sees one that was kept too long.
//!
//! A test puts a translation into a CPU's TLB as a page walk would ([`Tlbs::fill`]) and asks what is still there. A CPU keeps the
//! translations of each domain apart, as if each had CPUs of its own: who flushes on behalf of a domain reaches no more than
//! the machine's promise says ([`xenolith_hal::Hal::flush_stale`]), its own and those of domain 0, which maps frames of all.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
};

use xenolith_hal::{CpuId, DomId, Mfn};

const CONTROL: DomId = DomId(0);

/// What a CPU has of one domain.
#[derive(Default)]
struct Part {
    /// The moment of its last flush.
    flushed: u64,
    /// Frames that it leads to, and whether for writing.
    entries: HashSet<(Mfn, bool)>,
}

#[derive(Default)]
struct Tlb {
    /// The moment of the last flush of everything.
    flushed: u64,
    parts: HashMap<DomId, Part>,
}

impl Tlb {
    fn clear(&mut self, now: u64) {
        self.parts.clear();
        self.flushed = now;
    }

    /// Whether a part was flushed at `stamp` or before.
    fn is_older(&self, domain: DomId, stamp: u64) -> bool {
        let part = self.parts.get(&domain).map_or(0, |part| part.flushed);
        part.max(self.flushed) <= stamp
    }

    fn clear_part(&mut self, domain: DomId, now: u64) {
        let part = self.parts.entry(domain).or_default();
        part.entries.clear();
        part.flushed = now;
    }
}

/// The TLBs of all CPUs.
pub struct Tlbs {
    clock: AtomicU64,
    cpus: Box<[Mutex<Tlb>]>,
    flushes: AtomicU64,
    mixed: AtomicBool,
}

impl Tlbs {
    pub(crate) fn new(cpus: u16) -> Self {
        Self {
            clock: AtomicU64::new(1),
            cpus: (0..cpus).map(|_| Mutex::default()).collect(),
            flushes: AtomicU64::new(0),
            mixed: AtomicBool::new(false),
        }
    }

    fn of(&self, cpu: CpuId) -> MutexGuard<'_, Tlb> {
        let tlb = self.cpus[cpu.index()].lock();
        tlb.unwrap_or_else(PoisonError::into_inner)
    }

    fn each(&self, mut f: impl FnMut(&mut Tlb)) {
        for tlb in &self.cpus {
            f(&mut tlb.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }

    fn tick(&self) -> u64 {
        self.clock.fetch_add(1, SeqCst) + 1
    }

    /// The domains that may keep translations to frames of a domain's; `None`: any.
    fn keepers(&self, owner: Option<DomId>) -> Option<[DomId; 2]> {
        let known = owner.filter(|_| !self.mixed.load(SeqCst));
        known.map(|owner| [owner, CONTROL])
    }

    /// The clock of flushes.
    pub fn stamp(&self) -> u64 {
        self.clock.load(SeqCst)
    }

    /// A CPU walked tables of a domain to a frame.
    pub fn fill(&self, cpu: CpuId, domain: DomId, mfn: Mfn, writable: bool) {
        let mut tlb = self.of(cpu);
        let part = tlb.parts.entry(domain).or_default();
        part.entries.insert((mfn, writable));
    }

    /// Flushes one CPU.
    pub fn flush(&self, cpu: CpuId) {
        self.of(cpu).clear(self.tick());
    }

    /// Flushes what one CPU has of a domain.
    pub fn flush_domain(&self, cpu: CpuId, domain: DomId) {
        self.of(cpu).clear_part(domain, self.tick());
    }

    /// From now on tables of a domain may lead to frames of another one's, which is not theirs by grant.
    pub fn mix(&self) {
        self.mixed.store(true, SeqCst);
    }

    pub(crate) fn flush_stale(&self, owner: Option<DomId>, stamp: u64) {
        let keepers = self.keepers(owner);
        self.each(|tlb| match keepers {
            Some(keepers) => {
                for domain in keepers {
                    if tlb.is_older(domain, stamp) {
                        tlb.clear_part(domain, self.tick());
                        self.flushes.fetch_add(1, SeqCst);
                    }
                }
            }
            None => {
                tlb.clear(self.tick());
                self.flushes.fetch_add(1, SeqCst);
            }
        });
    }

    /// Drops every translation that leads to a frame of a domain's.
    pub(crate) fn forget(&self, mfn: Mfn, owner: DomId) {
        let keepers = self.keepers(Some(owner));
        self.each(|tlb| {
            for (domain, part) in &mut tlb.parts {
                if keepers.is_none_or(|keepers| keepers.contains(domain)) {
                    part.entries.retain(|(leads_to, _)| *leads_to != mfn);
                }
            }
        });
    }

    /// How many flushes the hypervisor asked for by itself.
    pub fn forced(&self) -> u64 {
        self.flushes.load(SeqCst)
    }

    /// Whether any CPU might still write to the frame.
    pub fn may_write(&self, mfn: Mfn) -> bool {
        let mut found = false;
        self.each(|tlb| {
            let mut parts = tlb.parts.values();
            found |= parts.any(|part| part.entries.contains(&(mfn, true)));
        });
        found
    }
}
