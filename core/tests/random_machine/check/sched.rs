//! Every vCPU is where it says, on one CPU at most; who can run does or waits its turn; no CPU forgets work or a timer.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering::SeqCst},
};

use xenolith_core::{VcpuRef, sched::handoff::Place};
use xenolith_hal::{CpuId, Nanos};
use xenolith_sim::Sim;

use crate::machine::{CPUS, Machine};

fn name(vcpu: &VcpuRef<Sim>) -> (u16, u16) {
    (vcpu.domain().id().0, vcpu.id.0)
}

impl Machine {
    /// A CPU with something to do was told, and wakes for its first timer.
    pub fn check_cpus(&self) {
        for cpu in (0..CPUS).map(CpuId) {
            let model = &self.cpus[cpu.index()];
            let record = self.sim.cpu_record(cpu);
            let kicked = record.kicks() != 0;
            let work = self.hv.sched.work(cpu).load(SeqCst);
            assert!(
                work == 0 || kicked,
                "{cpu:?} was not told of its work {work:#x}"
            );
            let current = self.hv.current(cpu);
            if let Some(vcpu) = &model.current {
                let on = self.hv.vcpu_facts(vcpu).place;
                assert_eq!(on, Place::Running(cpu), "{:?} is loaded", name(vcpu));
                assert!(
                    vcpu.arch.upcalls() == 0 || kicked,
                    "{:?} runs on and is not told of an event",
                    name(vcpu)
                );
            }
            assert!(current == model.current, "{cpu:?} has another current vCPU");
            let (_, earliest) = self.hv.timers.summary(cpu);
            let covered = |deadline: Nanos| {
                model.timer_waits || record.timer().is_some_and(|timer| timer <= deadline)
            };
            assert!(earliest.is_none_or(covered), "{cpu:?} oversleeps a timer");
        }
    }

    /// Nobody waits for what is there already.
    pub fn check_waits(&self) {
        for dom in self.doms.iter().filter(|dom| !dom.destroying) {
            let mut pollers = 0;
            for (vcpu, guest) in VcpuRef::all(&dom.domain).zip(&dom.guests) {
                let facts = self.hv.vcpu_facts(&vcpu);
                pollers += u32::from(facts.polls);
                if !facts.waits || !dom.polite {
                    continue;
                }
                assert!(
                    !self.hv.interrupt_deliverable(&vcpu),
                    "{:?} waits and has an interrupt",
                    name(&vcpu)
                );
                if facts.polls && !guest.polled.is_empty() {
                    let ready = self
                        .hv
                        .any_pending(&dom.domain, guest.polled.iter().copied());
                    assert_ne!(
                        ready,
                        Ok(true),
                        "{:?} polls a port that is pending",
                        name(&vcpu)
                    );
                }
            }
            let noted = dom.domain.sched.pollers();
            assert_eq!(noted, pollers, "pollers of {}", dom.domain.id());
        }
    }

    /// Places, queues and currents name each other.
    pub fn check_places(&self) {
        let mut queued: HashMap<(usize, u16), Vec<CpuId>> = HashMap::new();
        let key = |vcpu: &VcpuRef<Sim>| (Arc::as_ptr(vcpu.domain()) as usize, vcpu.id.0);
        for cpu in (0..CPUS).map(CpuId) {
            self.hv
                .for_each_waiting(cpu, |vcpu| queued.entry(key(vcpu)).or_default().push(cpu));
        }
        for dom in &self.doms {
            for vcpu in VcpuRef::all(&dom.domain) {
                let facts = self.hv.vcpu_facts(&vcpu);
                let queues = queued.remove(&key(&vcpu)).unwrap_or_default();
                let loaded = self
                    .cpus
                    .iter()
                    .filter(|c| c.current.as_ref() == Some(&vcpu));
                let loaded = loaded.count();
                let name = name(&vcpu);
                match facts.place {
                    Place::Off(_) => {
                        assert!(!facts.runnable, "{name:?} can run and is forgotten");
                        assert_eq!((queues.len(), loaded), (0, 0), "{name:?} is off");
                    }
                    Place::Queued(cpu) => {
                        assert_eq!((queues, loaded), (vec![cpu], 0), "{name:?} is queued");
                    }
                    Place::Running(_) => {
                        assert_eq!((queues.len(), loaded), (0, 1), "{name:?} runs");
                    }
                    Place::Leaving(_) => panic!("{name:?} is leaving between two steps"),
                }
            }
        }
        assert!(
            queued.is_empty(),
            "vCPUs of domains that are gone are queued"
        );
    }
}
