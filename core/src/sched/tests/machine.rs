//! A machine whose CPUs run guests as an architecture's main loop does, one step at a time.

use std::{
    boxed::Box,
    cell::RefCell,
    sync::atomic::{AtomicU16, AtomicU64, Ordering::SeqCst},
    vec::Vec,
};

use xenolith_hal::{CpuId, CpuMask, Hal, Mfn, Nanos};
use xenolith_sim::Sim;

use crate::{
    DomainRef, Hypervisor, VcpuRef,
    domain::DomainConfig,
    sched::{Affinity, Place, Work},
    testing,
};

const NOWHERE: u16 = u16::MAX;

/// Where a test's vCPU has its registers, and what it has done.
pub(super) struct Seen {
    loaded: AtomicU16,
    pub(super) ran: AtomicU64,
}

pub(super) struct Machine {
    pub(super) sim: Sim,
    pub(super) hv: Hypervisor<Sim>,
    seen: RefCell<Vec<(VcpuRef<Sim>, &'static Seen)>>,
    cpus: Vec<RefCell<Option<VcpuRef<Sim>>>>,
}

impl Machine {
    pub(super) fn new(cpus: u16) -> Self {
        let sim = Sim::new(cpus, &[(Mfn(0x4_0000), 4096)]);
        let hv = testing::hypervisor(&sim);
        for cpu in 0..cpus {
            hv.sched.online(CpuId(cpu));
        }
        let machine = Self {
            sim,
            hv,
            seen: RefCell::default(),
            cpus: (0..cpus).map(|_| RefCell::new(None)).collect(),
        };
        machine.settle();
        machine
    }

    /// A domain whose vCPUs are down.
    pub(super) fn domain(&self, id: u16, vcpus: u16) -> DomainRef<Sim> {
        let config = DomainConfig {
            vcpus,
            ..testing::config(id)
        };
        // Frame 0 to 3 of each guest are memory.
        let domain = testing::domain_with(&self.hv, config, 4);
        for vcpu in VcpuRef::all(&domain) {
            let seen = Box::leak(Box::new(Seen {
                loaded: AtomicU16::new(NOWHERE),
                ran: AtomicU64::new(0),
            }));
            self.seen.borrow_mut().push((vcpu, seen));
        }
        domain
    }

    /// A domain whose vCPUs are up, and the vCPUs.
    pub(super) fn running_domain(&self, id: u16, vcpus: u16) -> Vec<VcpuRef<Sim>> {
        let domain = self.domain(id, vcpus);
        let vcpus: Vec<_> = VcpuRef::all(&domain).collect();
        for vcpu in &vcpus {
            assert!(self.hv.vcpu_up(vcpu));
        }
        vcpus
    }

    /// Drops what the test itself holds of the vCPUs.
    pub(super) fn forget(&self) {
        self.seen.borrow_mut().clear();
    }

    pub(super) fn vcpus(&self) -> Vec<VcpuRef<Sim>> {
        let seen = self.seen.borrow();
        seen.iter().map(|(vcpu, _)| vcpu.clone()).collect()
    }

    pub(super) fn seen(&self, vcpu: &VcpuRef<Sim>) -> &'static Seen {
        let seen = self.seen.borrow();
        seen.iter().find(|(v, _)| v == vcpu).unwrap().1
    }

    pub(super) fn current(&self, cpu: u16) -> Option<VcpuRef<Sim>> {
        self.cpus[usize::from(cpu)].borrow().clone()
    }

    /// Runs `f` on the CPU.
    pub(super) fn on<R>(&self, cpu: u16, f: impl FnOnce(&Hypervisor<Sim>) -> R) -> R {
        self.sim.run_as(CpuId(cpu), || f(&self.hv))
    }

    /// The CPU's slow path: all pending work, then the switch. Gives the vCPU that is in its guest now.
    pub(super) fn slow_path(&self, cpu: u16) -> Option<VcpuRef<Sim>> {
        self.on(cpu, |hv| {
            let work = hv.sched.work(CpuId(cpu));
            while work.load(SeqCst) != 0 {
                if work.load(SeqCst) & Work::TIMER.bits() != 0 {
                    hv.timer_interrupt(CpuId(cpu));
                }
                if work.load(SeqCst) & Work::RESCHEDULE.bits() != 0 {
                    let next = hv.schedule(CpuId(cpu));
                    self.switch(cpu, next);
                }
            }
        });
        self.current(cpu)
    }

    fn switch(&self, cpu: u16, next: Option<VcpuRef<Sim>>) {
        let mut current = self.cpus[usize::from(cpu)].borrow_mut();
        if *current == next {
            // Nothing is stored or loaded; a vCPU that is chosen again without a switch stays loaded.
            if let Some(vcpu) = &next {
                assert_eq!(vcpu.sched.place(), Place::Running(CpuId(cpu)));
            }
            return;
        }
        if let Some(before) = current.take() {
            let seen = self.seen(&before);
            assert_eq!(seen.loaded.swap(NOWHERE, SeqCst), cpu, "not loaded here");
            self.hv.context_saved(&before);
        }
        if let Some(next) = &next {
            let seen = self.seen(next);
            let was = seen.loaded.swap(cpu, SeqCst);
            assert_eq!(was, NOWHERE, "loaded on two CPUs");
            assert!(next.sched.hard.contains(CpuId(cpu)), "affinity");
        }
        *current = next;
    }

    /// Every CPU works until none has anything to do.
    pub(super) fn settle(&self) {
        let cpus = self.cpus.len() as u16;
        while (0..cpus).any(|cpu| self.hv.sched.work(CpuId(cpu)).load(SeqCst) != 0) {
            for cpu in 0..cpus {
                self.slow_path(cpu);
            }
        }
    }

    /// Time passes in steps; the vCPUs in their guests get it, timers fire.
    pub(super) fn pass(&self, span: Nanos, step: Nanos) {
        let end = self.hv.hal.now().plus(span);
        while self.hv.hal.now() < end {
            for cpu in self.sim.advance(step) {
                self.on(cpu.0, |hv| hv.timer_interrupt(cpu));
            }
            for cpu in 0..self.cpus.len() as u16 {
                if let Some(vcpu) = self.current(cpu) {
                    self.seen(&vcpu).ran.fetch_add(step.0, SeqCst);
                }
            }
            self.settle();
        }
    }

    pub(super) fn ran(&self, vcpu: &VcpuRef<Sim>) -> u64 {
        self.seen(vcpu).ran.load(SeqCst)
    }

    pub(super) fn pin(&self, vcpu: &VcpuRef<Sim>, cpus: &[u16]) {
        let mut hard = CpuMask::EMPTY;
        for cpu in cpus {
            hard.insert(CpuId(*cpu));
        }
        let affinity = Affinity {
            hard,
            soft: CpuMask::ALL,
        };
        self.hv.set_affinity(vcpu, &affinity).unwrap();
    }

    /// What must hold whenever no CPU is inside the scheduler.
    pub(super) fn check(&self) {
        for (vcpu, seen) in self.seen.borrow().iter() {
            let loaded = seen.loaded.load(SeqCst);
            let place = vcpu.sched.place();
            match place {
                Place::Off(_) => {
                    assert!(!vcpu.runnable(), "a runnable vCPU is forgotten");
                    assert_eq!(loaded, NOWHERE);
                }
                Place::Queued(cpu) => {
                    assert_eq!(loaded, NOWHERE);
                    let slot = self.hv.sched.cpu(cpu).unwrap();
                    let mut found = 0;
                    super::Policy::for_each(&slot.queue.lock().waiting, &mut |v| {
                        found += usize::from(v == vcpu);
                    });
                    assert_eq!(found, 1, "queued once where it says");
                }
                Place::Running(cpu) => {
                    assert_eq!(loaded, cpu.0);
                    assert!(self.hv.current(cpu).as_ref() == Some(vcpu));
                }
                Place::Leaving(_) => panic!("nobody is leaving now"),
            }
        }
    }
}
