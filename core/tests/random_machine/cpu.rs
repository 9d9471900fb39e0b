//! What a physical CPU does: it leaves its guest or its sleep for a kick, a timer, or because the guest wants something;
//! does the work that waits; and enters the guest that is chosen. Kicks and timers may be served late, as on hardware.

use std::sync::atomic::Ordering::SeqCst;

use xenolith_core::{VcpuRef, sched::Work};
use xenolith_hal::CpuId;
use xenolith_sim::Sim;

use crate::machine::Machine;

/// A CPU between two steps: in a guest, or asleep.
#[derive(Default)]
pub struct CpuModel {
    /// The vCPU whose registers are loaded.
    pub current: Option<VcpuRef<Sim>>,
    /// Its timer went off and was not served yet.
    pub timer_waits: bool,
}

impl Machine {
    /// Runs `f` on a CPU.
    pub fn on<R>(&mut self, cpu: CpuId, f: impl FnOnce(&mut Self) -> R) -> R {
        let sim = self.sim.clone();
        sim.run_as(cpu, || f(self))
    }

    /// A CPU that has something to do, mostly.
    pub fn some_cpu(&mut self) -> CpuId {
        for _ in 0..6 {
            let cpu = CpuId(self.random.below(u64::from(self.sim.cpus())) as u16);
            let model = &self.cpus[cpu.index()];
            let busy = model.current.is_some() || model.timer_waits;
            if busy || self.sim.cpu_record(cpu).kicks() != 0 {
                return cpu;
            }
        }
        CpuId(0)
    }

    /// One step of a CPU.
    pub fn cpu_step(&mut self, cpu: CpuId) {
        self.on(cpu, |m| {
            if m.random.once_in(3) {
                let polls = m.random.below(6);
                m.sim.cpu_record(cpu).interrupt_after(polls);
            }
            if m.cpus[cpu.index()].timer_waits && !m.random.once_in(4) {
                m.serve_timer(cpu);
            }
            if m.random.once_in(7) {
                m.manage(cpu);
            } else if m.random.once_in(9) {
                // Only an interrupt: nothing is done but to look.
            } else if let Some(current) = m.cpus[cpu.index()].current.clone() {
                m.guest_acts(cpu, &current);
            }
        });
        self.settle(cpu);
    }

    fn serve_timer(&mut self, cpu: CpuId) {
        self.cpus[cpu.index()].timer_waits = false;
        self.hv.timer_interrupt(cpu);
    }

    /// The way back into the guest: all work, then the switch.
    pub fn settle(&mut self, cpu: CpuId) {
        self.on(cpu, |m| {
            m.sim.cpu_record(cpu).take_kicks();
            loop {
                let work = m.hv.sched.work(cpu).load(SeqCst);
                if work == 0 {
                    break;
                }
                if work & Work::TIMER.bits() != 0 {
                    m.hv.timer_interrupt(cpu);
                }
                if work & Work::RESCHEDULE.bits() != 0 {
                    let next = m.hv.schedule(cpu);
                    m.switch(cpu, next);
                }
            }
            // The guest that is entered sees its interrupts.
            if let Some(current) = &m.cpus[cpu.index()].current {
                current.arch.take_upcalls();
            }
        });
    }

    fn switch(&mut self, cpu: CpuId, next: Option<VcpuRef<Sim>>) {
        let current = &mut self.cpus[cpu.index()].current;
        if *current == next {
            return;
        }
        if let Some(before) = current.take() {
            self.hv.context_saved(&before);
        }
        if let Some(next) = &next {
            assert!(
                !self.cpus.iter().any(|c| c.current.as_ref() == Some(next)),
                "a vCPU is loaded on two CPUs"
            );
            assert!(
                self.hv.affinity(next).hard.contains(cpu),
                "a vCPU runs where it may not"
            );
        }
        self.cpus[cpu.index()].current = next;
    }

    /// Every CPU does what waits for it, until nothing does.
    pub fn settle_all(&mut self) {
        for _ in 0..1000 {
            let mut quiet = true;
            for cpu in (0..self.sim.cpus()).map(CpuId) {
                if self.cpus[cpu.index()].timer_waits {
                    self.on(cpu, |m| m.serve_timer(cpu));
                    quiet = false;
                }
                let waits = self.hv.sched.work(cpu).load(SeqCst) != 0
                    || self.sim.cpu_record(cpu).kicks() != 0;
                if waits {
                    self.settle(cpu);
                    quiet = false;
                }
            }
            if quiet {
                return;
            }
        }
        panic!("the CPUs never come to rest");
    }
}
