//! Random sequences against a plain list of what was raised: nothing is lost, nothing comes twice, and what is taken is
//! the best that could be.

use std::collections::BTreeMap;

use super::*;

/// A small generator; the seed is printed when a run fails.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % n
    }
}

const VCPUS: usize = 3;
const LINES: u64 = 96;
const DEVICE: u32 = 90;

/// What should be true of one interrupt of one vCPU.
#[derive(Debug, Default, Clone, Copy)]
struct Expected {
    pending: bool,
    active: bool,
}

fn run<const V3: bool>(seed: u64) {
    let mut random = Random(seed);
    let rig = Rig::<V3>::new(VCPUS, LINES as u32);
    rig.domain.link_physical(DEVICE);
    let mut priority = BTreeMap::new();
    for intid in 0..LINES as u32 {
        // The four levels keep many interrupts equal.
        let level = 0x20 * (1 + random.below(4) as u32);
        for vcpu in 0..VCPUS {
            if intid < 32 && V3 {
                rig.domain
                    .redist_write(
                        &rig.cpus[vcpu],
                        vcpu,
                        vcpu,
                        0x1_0400 + intid,
                        Size::Byte,
                        u64::from(level),
                        |_| {},
                    )
                    .unwrap();
            } else {
                rig.domain
                    .dist_write(
                        &rig.cpus[vcpu],
                        vcpu,
                        0x400 + intid,
                        Size::Byte,
                        u64::from(level),
                        |_| {},
                    )
                    .unwrap();
            }
        }
        priority.insert(intid, level as u8);
    }
    let mut state: BTreeMap<(usize, u32), Expected> = BTreeMap::new();
    let mut nested: Vec<Vec<u32>> = (0..VCPUS).map(|_| Vec::new()).collect();
    let mut saved = [false; VCPUS];

    for step in 0..4000 {
        let vcpu = random.below(VCPUS as u64) as usize;
        let v = rig.domain.vcpu(vcpu).unwrap();
        match random.below(10) {
            0..=3 => {
                let intid = random.below(LINES) as u32;
                if intid == TIMER || intid == DEVICE || (intid < 16 && !V3) {
                    continue;
                }
                // Shared interrupts all go to vCPU 0.
                let owner = if intid < 32 { vcpu } else { 0 };
                if V3 && intid < 16 && !saved[vcpu] && random.below(2) == 0 {
                    rig.domain.sgi1r(
                        &rig.cpus[vcpu],
                        vcpu,
                        self_sgi(vcpu, u64::from(intid)),
                        |_| {},
                    );
                } else {
                    rig.domain.inject(owner, intid, |_| {});
                }
                state.entry((owner, intid)).or_default().pending = true;
            }
            4 => {
                let entry = state.entry((0, DEVICE)).or_default();
                if !rig.cpus[0].is_active(DEVICE) && !entry.pending && !entry.active {
                    rig.cpus[0].fire(DEVICE);
                    rig.domain.physical_spi(DEVICE, CpuId(0), |_| {});
                    entry.pending = true;
                }
            }
            5 => {
                if saved[vcpu] {
                    v.load(&rig.cpus[vcpu], CpuId(vcpu as u16));
                } else {
                    v.save(&rig.cpus[vcpu]);
                }
                saved[vcpu] = !saved[vcpu];
            }
            6..=7 if !saved[vcpu] => {
                // No guest nests deeper than there are registers.
                if nested[vcpu].len() >= 2 {
                    continue;
                }
                rig.enter(vcpu);
                let running = nested[vcpu]
                    .iter()
                    .map(|intid| priority[intid])
                    .min()
                    .unwrap_or(u8::MAX);
                let best = state
                    .iter()
                    .filter(|((owner, _), e)| *owner == vcpu && e.pending && !e.active)
                    .map(|((_, intid), _)| priority[intid])
                    .filter(|p| *p < running)
                    .min();
                let taken = rig.cpus[vcpu].acknowledge();
                assert_eq!(
                    taken.map(|(_, p)| p),
                    best,
                    "seed {seed} step {step}: the best pending priority; registers hold {:?}",
                    rig.cpus[vcpu].waiting()
                );
                if let Some((intid, _)) = taken {
                    let entry = state.get_mut(&(vcpu, intid)).unwrap();
                    assert!(
                        entry.pending && !entry.active,
                        "seed {seed} step {step}: {intid}"
                    );
                    *entry = Expected {
                        pending: false,
                        active: true,
                    };
                    nested[vcpu].push(intid);
                }
            }
            _ if !saved[vcpu] => {
                if let Some(intid) = nested[vcpu].pop() {
                    rig.cpus[vcpu].end(intid);
                    state.get_mut(&(vcpu, intid)).unwrap().active = false;
                }
            }
            _ => {}
        }
    }
    for vcpu in 0..VCPUS {
        if saved[vcpu] {
            rig.domain
                .vcpu(vcpu)
                .unwrap()
                .load(&rig.cpus[vcpu], CpuId(vcpu as u16));
        }
        while let Some(intid) = nested[vcpu].pop() {
            rig.cpus[vcpu].end(intid);
        }
        let mut taken = rig.take_all(vcpu);
        taken.sort_unstable();
        let expected: Vec<u32> = state
            .iter()
            .filter(|((owner, _), e)| *owner == vcpu && e.pending)
            .map(|((_, intid), _)| *intid)
            .collect();
        assert_eq!(
            taken, expected,
            "seed {seed}: what was left for vCPU {vcpu}"
        );
    }
}

#[test]
fn random_sequences_lose_nothing_and_double_nothing_on_gicv3() {
    for seed in 1..150u64 {
        run::<true>(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    }
}

#[test]
fn random_sequences_lose_nothing_and_double_nothing_on_gicv2() {
    for seed in 1..150u64 {
        run::<false>(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    }
}
