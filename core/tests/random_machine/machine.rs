//! The machine and the domains on it, as the test keeps track of them.

use std::{
    collections::VecDeque,
    sync::{Arc, Weak, atomic::Ordering::SeqCst},
};

use xenolith_core::{
    Domain, DomainRef, Hypervisor, VcpuId, VcpuRef,
    domain::LifeState,
    memory::{FrameRecord, Memory, Node, RamBank},
};
use xenolith_hal::{CpuId, Hal, Mfn, Nanos};
use xenolith_sim::Sim;

use crate::{cpu::CpuModel, fifo::FifoPages, guest::GuestModel, random::Random};

/// Physical CPUs.
pub const CPUS: u16 = 4;
/// Domains, the control domain included.
pub const DOMAINS: u16 = 9;
/// RAM in two banks, the second above 4 GiB.
pub const BANKS: [(Mfn, u64); 2] = [(Mfn(0x4_0000), 2048), (Mfn(0x10_0100), 1280)];

/// A domain as the test sees it.
pub struct Dom {
    pub domain: DomainRef<Sim>,
    /// First guest frame of its memory.
    pub base: u64,
    /// Whether its guest keeps to the rules of the ABI, so that more can be expected of it.
    pub polite: bool,
    /// Pauses by tools that are not undone.
    pub pauses: u32,
    /// The same for each vCPU.
    pub vcpu_pauses: Vec<u32>,
    /// Frames that a paravirtual guest uses as page tables.
    pub tables: Vec<Mfn>,
    /// The pages of the FIFO ABI, while a polite guest uses it.
    pub fifo: Option<FifoPages>,
    /// What each vCPU's guest is doing.
    pub guests: Vec<GuestModel>,
    /// Whether tools destroy it.
    pub destroying: bool,
    /// Whether its own part of the destruction is done.
    pub taken_apart: bool,
}

impl Dom {
    pub fn vcpu(&self, index: usize) -> VcpuRef<Sim> {
        VcpuRef::new(&self.domain, VcpuId(index as u16))
            .expect("an index below the number of vCPUs")
    }

    pub fn is_running(&self) -> bool {
        self.domain.life.state() == LifeState::Running
    }
}

#[derive(Default)]
pub struct Counts {
    pub calls: u64,
    pub served: u64,
    pub continued: u64,
    pub created: u64,
    pub destroyed: u64,
    pub events: u64,
    pub queued: u64,
    pub mapped: u64,
    pub exchanged: u64,
}

pub struct Machine {
    pub sim: Sim,
    pub hv: Hypervisor<Sim>,
    pub random: Random,
    pub cpus: Vec<CpuModel>,
    pub doms: Vec<Dom>,
    /// Memory that the test took to make it scarce.
    pub ballast: Vec<(Mfn, u32)>,
    /// Every domain that ever was.
    pub ever: Vec<Weak<Domain<Sim>>>,
    pub counts: Counts,
    /// Frames that were free at the start.
    pub frames: u64,
    step: u64,
    acts: VecDeque<String>,
}

fn hypervisor(sim: &Sim) -> Hypervisor<Sim> {
    let bank = |(first, frames): (Mfn, u64)| {
        let records: Vec<_> = (0..frames).map(|_| FrameRecord::new()).collect();
        RamBank {
            first,
            records: Box::leak(records.into_boxed_slice()),
            node: Node(0),
        }
    };
    let banks: Vec<_> = sim.banks().into_iter().map(bank).collect();
    let memory = Memory::new(&banks).expect("good banks");
    for bank in &banks {
        memory.release_at_boot(bank.first, bank.records.len() as u64);
    }
    Hypervisor::new(sim.clone(), memory)
}

impl Machine {
    pub fn new(seed: u64) -> Self {
        let sim = Sim::new(CPUS, &BANKS);
        let hv = hypervisor(&sim);
        for cpu in 0..CPUS {
            hv.sched.online(CpuId(cpu));
        }
        let frames = hv.memory.free_frames();
        let mut machine = Self {
            sim,
            hv,
            random: Random::new(seed),
            cpus: (0..CPUS).map(|_| CpuModel::default()).collect(),
            doms: Vec::new(),
            ballast: Vec::new(),
            ever: Vec::new(),
            counts: Counts::default(),
            frames,
            step: 0,
            acts: VecDeque::new(),
        };
        for cpu in 0..CPUS {
            machine.settle(CpuId(cpu));
        }
        for id in 0..DOMAINS - 1 {
            machine.create(id);
        }
        machine.settle(CpuId(0));
        machine
    }

    /// One CPU does something, or time passes.
    pub fn step(&mut self) {
        self.step += 1;
        if self.random.once_in(4) {
            let by = Nanos(self.random.below(2_000_000));
            self.pass(by);
        }
        self.choose_failures();
        let cpu = self.some_cpu();
        self.cpu_step(cpu);
        self.sim.faults().off();
        self.sim.cpu_record(cpu).clear_interrupt();
        self.bury();
        self.check();
        if self.step.is_multiple_of(256) {
            let _ = self.sim.take_console();
        }
    }

    /// Time passes; timers that go off are served when their CPU next looks.
    pub fn pass(&mut self, by: Nanos) {
        for cpu in self.sim.advance(by) {
            self.cpus[cpu.index()].timer_waits = true;
        }
    }

    /// Which allocations of this step fail.
    fn choose_failures(&mut self) {
        if self.random.once_in(6) {
            let after = self.random.below(6);
            self.sim.faults().fail_after(after);
        }
    }

    /// Forgets domains of which nothing is left.
    pub fn bury(&mut self) {
        self.doms
            .retain(|dom| dom.domain.life.state() != LifeState::Dead);
    }

    /// The domain and the vCPU's number, as the test keeps track of it.
    pub fn find(&self, vcpu: &VcpuRef<Sim>) -> Option<(usize, usize)> {
        let at = self
            .doms
            .iter()
            .position(|dom| Arc::ptr_eq(&dom.domain, vcpu.domain()))?;
        Some((at, usize::from(vcpu.id.0)))
    }

    /// Some domain; the control domain too.
    pub fn any_dom(&mut self) -> Option<usize> {
        let count = self.doms.len() as u64;
        (count != 0).then(|| self.random.below(count) as usize)
    }

    /// Notes what is done, for whoever looks for the cause of a failure.
    pub fn note(&mut self, act: impl FnOnce() -> String) {
        if self.acts.len() == 24 {
            self.acts.pop_front();
        }
        let now = self.hv.hal.now().0;
        self.acts
            .push_back(format!("{:6} at {now:>12}: {}", self.step, act()));
    }

    pub fn acts(&self) -> impl Iterator<Item = &String> {
        self.acts.iter()
    }

    pub fn steps(&self) -> u64 {
        self.step
    }

    pub fn summary(&self) -> String {
        let c = &self.counts;
        format!(
            "{} calls ({} served, {} continued), {} domains made, {} destroyed, {} events taken, {} from queues, {} grants mapped, {} exchanges",
            c.calls,
            c.served,
            c.continued,
            c.created,
            c.destroyed,
            c.events,
            c.queued,
            c.mapped,
            c.exchanged
        )
    }

    /// Nothing new happens: what is under way comes to its end, every domain is destroyed, and all comes back.
    pub fn wind_up(&mut self) {
        self.sim.faults().off();
        self.release_ballast();
        self.note(|| "winding up".into());
        self.drain();
        self.check();
        self.check_events_arrived();
        self.destroy_all();
        self.check();
        assert!(self.doms.is_empty(), "a domain is left");
        let mut left = 0;
        self.hv.domains.for_each(|_| left += 1);
        assert_eq!(left, 0, "domains in the table");
        assert_eq!(self.hv.memory.free_frames(), self.frames, "frames are lost");
        // Timers that were set by domains that are gone.
        for _ in 0..4 {
            self.pass(Nanos::from_millis(20_000));
            for cpu in (0..CPUS).map(CpuId) {
                self.settle(cpu);
            }
        }
        let alive = self.ever.iter().filter_map(Weak::upgrade);
        let alive: Vec<_> = alive.map(|domain| domain.id()).collect();
        assert!(alive.is_empty(), "somebody still holds {alive:?}");
        // The free lists lead to every frame.
        let mut found = 0;
        while let Some((mfn, order)) = self
            .hv
            .memory
            .allocate_largest(u64::MAX, xenolith_core::memory::Place::ANY)
        {
            found += 1_u64 << order;
            self.ballast.push((mfn, order));
        }
        assert_eq!(found, self.frames, "free frames that no list leads to");
        self.release_ballast();
        for cpu in (0..CPUS).map(CpuId) {
            assert_eq!(self.hv.sched.work(cpu).load(SeqCst), 0);
        }
    }
}
