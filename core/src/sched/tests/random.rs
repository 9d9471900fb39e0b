//! Random interleavings of everything that changes a vCPU's state, on one thread, so that a seed reproduces.

use std::{collections::HashMap, println, vec::Vec};

use xenolith_hal::{ArchTimer, CpuId, Hal, Nanos};

use super::machine::Machine;
use crate::timer::VcpuTimer;

/// A small generator with good enough bits (xorshift64*).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

const CPUS: u16 = 4;

fn run(seed: u64, steps: usize) {
    println!("seed {seed}");
    let mut random = Random(seed);
    let m = Machine::new(CPUS);
    for id in 1..4 {
        m.running_domain(id, 3);
    }
    let vcpus = m.vcpus();
    let mut pauses: Vec<u32> = vcpus.iter().map(|_| 0).collect();
    for step in 0..steps {
        let cpu = random.below(u64::from(CPUS)) as u16;
        let at = random.below(vcpus.len() as u64) as usize;
        let vcpu = &vcpus[at];
        let current = m.current(cpu);
        m.on(cpu, |hv| match random.below(14) {
            0 | 1 => {
                if let Some(current) = &current {
                    hv.block(current);
                }
            }
            2 => {
                if let Some(current) = &current {
                    hv.yield_now(current);
                }
            }
            3 | 4 => {
                vcpu.arch.set_interrupt(true);
                hv.notify(vcpu);
            }
            5 => hv.wake(vcpu),
            6 => {
                pauses[at] += 1;
                hv.pause_vcpu(vcpu);
            }
            7 if pauses[at] != 0 => {
                pauses[at] -= 1;
                hv.unpause_vcpu(vcpu);
            }
            8 => {
                let cpus = [random.below(4) as u16, random.below(4) as u16];
                m.pin(vcpu, &cpus);
            }
            9 => {
                let deadline = hv.hal.now().plus(Nanos(random.below(5_000_000)));
                hv.set_timer(vcpu, VcpuTimer::Arch(ArchTimer::A), deadline);
            }
            10 => {
                hv.cancel_timer(vcpu, VcpuTimer::Arch(ArchTimer::A));
            }
            11 => {
                hv.vcpu_down(vcpu);
            }
            12 => {
                hv.vcpu_up(vcpu);
            }
            _ => {}
        });
        // A guest takes its interrupts when it runs.
        if let Some(current) = m.slow_path(cpu) {
            current.arch.set_interrupt(false);
        }
        if random.below(3) == 0 {
            for cpu in m.sim.advance(Nanos(random.below(4_000_000))) {
                m.on(cpu.0, |hv| hv.timer_interrupt(cpu));
            }
        }
        if step % 7 == 0 {
            m.check();
        }
    }
    // Everything goes on in the end.
    for (vcpu, pauses) in vcpus.iter().zip(&pauses) {
        for _ in 0..*pauses {
            m.hv.unpause_vcpu(vcpu);
        }
        m.hv.vcpu_up(vcpu);
        m.pin(vcpu, &[0, 1, 2, 3]);
        m.hv.wake(vcpu);
    }
    m.settle();
    let before: HashMap<_, _> = (0..vcpus.len()).map(|at| (at, m.ran(&vcpus[at]))).collect();
    m.pass(Nanos::from_millis(200), Nanos::from_millis(1));
    m.check();
    for (at, vcpu) in vcpus.iter().enumerate() {
        assert!(m.ran(vcpu) > before[&at], "vCPU {at} got no CPU");
    }
}

#[test]
fn no_interleaving_loses_a_vcpu_or_runs_it_twice() {
    for seed in 1..=40 {
        run(seed * 0x9e37_79b9, 2_500);
    }
}

#[test]
fn timers_fire_in_order_and_never_early() {
    let mut random = Random(77);
    let m = Machine::new(1);
    let vcpus = m.running_domain(1, 8);
    m.settle();
    let timer = VcpuTimer::Arch(ArchTimer::B);
    let mut due: HashMap<usize, u64> = HashMap::new();
    for _ in 0..3000 {
        let at = random.below(8) as usize;
        match random.below(4) {
            0 => {
                let was = m.hv.cancel_timer(&vcpus[at], timer);
                assert_eq!(was, due.remove(&at).is_some());
            }
            1 | 2 => {
                let deadline = m.hv.hal.now().plus(Nanos(1 + random.below(100)));
                m.hv.set_timer(&vcpus[at], timer, deadline);
                due.insert(at, deadline.0);
            }
            _ => {
                for cpu in m.sim.advance(Nanos(random.below(40))) {
                    m.on(cpu.0, |hv| hv.timer_interrupt(CpuId(0)));
                }
                let now = m.hv.hal.now().0;
                for (at, vcpu) in vcpus.iter().enumerate() {
                    let fired =
                        m.hv.hal
                            .has_deliverable_interrupt(&vcpu.domain().arch, &vcpu.arch, false);
                    let expected = due.get(&at).is_some_and(|deadline| *deadline <= now);
                    assert_eq!(fired, expected, "timer {at} at {now}");
                    if fired {
                        due.remove(&at);
                        vcpu.arch.set_interrupt(false);
                    }
                }
            }
        }
        let earliest = due.values().min().copied();
        assert_eq!(m.hv.timers.summary(CpuId(0)).1, earliest.map(Nanos));
        assert!(earliest.is_none_or(|e| m.sim.cpu_record(CpuId(0)).timer() <= Some(Nanos(e))));
    }
}
