//! Real threads as CPUs: the races that one thread cannot show.

use std::{
    sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering::SeqCst},
    thread,
    vec::Vec,
};

use xenolith_hal::{CpuId, Hal};
use xenolith_sim::Sim;

use super::{Work, machine::Machine};
use crate::{Hypervisor, VcpuRef};

const CPUS: u16 = 3;
const VCPUS: usize = 6;
const ROUNDS: u64 = 4000;

/// One vCPU's guest: it owes an answer for each message.
#[derive(Default)]
struct Guest {
    sent: AtomicU64,
    answered: AtomicU64,
    /// The CPU plus one that has its registers.
    loaded: AtomicU16,
}

struct World<'a> {
    hv: &'a Hypervisor<Sim>,
    vcpus: &'a [VcpuRef<Sim>],
    guests: &'a [Guest],
    done: &'a AtomicBool,
}

impl World<'_> {
    fn index(&self, vcpu: &VcpuRef<Sim>) -> usize {
        usize::from(vcpu.id.0)
    }

    /// A CPU's main loop.
    fn cpu(&self, cpu: CpuId) {
        let mut current: Option<VcpuRef<Sim>> = None;
        let work = self.hv.sched.work(cpu);
        while !self.done.load(SeqCst) {
            if work.load(SeqCst) & Work::RESCHEDULE.bits() != 0 {
                let next = self.hv.schedule(cpu);
                if next != current {
                    if let Some(before) = current.take() {
                        let guest = &self.guests[self.index(&before)];
                        assert_eq!(guest.loaded.swap(0, SeqCst), cpu.0 + 1);
                        self.hv.context_saved(&before);
                    }
                    if let Some(next) = &next {
                        let guest = &self.guests[self.index(next)];
                        assert_eq!(guest.loaded.swap(cpu.0 + 1, SeqCst), 0, "loaded twice");
                    }
                    current = next;
                }
                continue;
            }
            match &current {
                Some(vcpu) => self.guest(vcpu),
                None => thread::yield_now(),
            }
        }
    }

    /// The guest takes its interrupt, answers, passes a message on, and waits.
    fn guest(&self, vcpu: &VcpuRef<Sim>) {
        let at = self.index(vcpu);
        let guest = &self.guests[at];
        vcpu.arch.set_interrupt(false);
        let sent = guest.sent.load(SeqCst);
        let new = sent - guest.answered.swap(sent, SeqCst);
        if new != 0 && sent <= ROUNDS {
            self.send((at * 5 + 1 + sent as usize % 3) % VCPUS);
        }
        self.hv.block(vcpu);
    }

    fn send(&self, to: usize) {
        self.guests[to].sent.fetch_add(1, SeqCst);
        self.vcpus[to].arch.set_interrupt(true);
        self.hv.notify(&self.vcpus[to]);
    }
}

#[test]
fn no_wake_up_is_lost_between_threads() {
    let machine = Machine::new(CPUS);
    let vcpus: Vec<_> = machine.running_domain(1, VCPUS as u16);
    let guests: Vec<_> = (0..VCPUS).map(|_| Guest::default()).collect();
    let done = AtomicBool::new(false);
    let (sim, hv) = (&machine.sim, &machine.hv);
    let world = World {
        hv,
        vcpus: &vcpus,
        guests: &guests,
        done: &done,
    };
    thread::scope(|scope| {
        let world = &world;
        for cpu in 0..CPUS {
            scope.spawn(move || sim.run_as(CpuId(cpu), || world.cpu(CpuId(cpu))));
        }
        for round in 0..ROUNDS {
            let to = round as usize % VCPUS;
            world.send(to);
            let mut stalled = 0;
            // The next message goes out when this one is answered: a lost wake-up would stop here.
            while world.guests[to].answered.load(SeqCst) < world.guests[to].sent.load(SeqCst) {
                stalled += 1;
                assert!(stalled < 20_000_000, "a wake-up was lost");
                thread::yield_now();
            }
        }
        done.store(true, SeqCst);
    });
    let _ = hv.hal.now();
}
