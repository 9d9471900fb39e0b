//! Random guests: several domains and CPUs, interrupts at any moment, and an audit after each step.
//!
//! Guests write garbage into whatever they may write, by the type system and by what their TLBs still hold, abandon calls
//! half way, give frames up, map frames of each other by grant and by right, and die. `XENOLITH_SEED` repeats a run.
//!
//! Here CPUs take turns of a whole call; in [`overlap`] calls of several meet half way.

mod overlap;

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering::SeqCst},
};

use xenolith_abi::{
    grant_table::MapFlags,
    x86_64::{MmuUpdate, MmuextOp},
};
use xenolith_arch_x86_64::pv::memory::{TrappedWrite, entry::*};
use xenolith_core::{
    grant::{PvMapping, PvPlace},
    guest::Caller,
    hypercall::Outcome,
    memory::{Dropped, Place},
};
use xenolith_hal::{CpuId, DomId, GuestVirt, Hal, HostPhys, Mfn};
use xenolith_sim::Sim;

use super::{audit::Counts, rig::*};

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 20) % limit
    }
    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
    fn of<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len() as u64) as usize]
    }
}

/// Few slots, so that requests meet.
const SLOTS: [usize; 6] = [0, 1, 2, 255, 256, 511];
const FRAMES: usize = 50;
/// Frames of the machine.
const RAM: u64 = 256;

struct World {
    rig: Arc<Rig>,
    random: Random,
    /// The frames that each domain plays with.
    pools: [Vec<Mfn>; 3],
    /// What a vCPU was told to ask again.
    again: HashMap<(u16, u16), (u64, [u64; 5])>,
    /// What the grant code would hold.
    granted: Vec<Granted>,
    /// Where in the pools requests meet, if not everywhere.
    near: Option<usize>,
    /// The domain that most calls are of.
    focus: u16,
    /// An entry that most updates are about.
    entry: Option<u64>,
    /// Domain 0 also puts frames of one domain into tables of another.
    mixes: bool,
}

/// A frame that is granted.
struct Granted {
    mfn: Mfn,
    /// The granter's use.
    held: Counts,
    /// Who may map it.
    mapper: u16,
    /// Where it did.
    place: Option<u64>,
}

impl World {
    fn new(seed: u64) -> Self {
        let rig = Rig::on(Sim::new(4, &[(Mfn(0x4_0000), RAM)]));
        let pools = [0, 1, 2].map(|dom| (0..FRAMES).map(|_| rig.frame(dom)).collect());
        Self {
            rig: Arc::new(rig),
            random: Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            pools,
            again: HashMap::new(),
            granted: Vec::new(),
            near: None,
            focus: 0,
            entry: None,
            mixes: seed.is_multiple_of(4),
        }
    }

    /// A frame of a pool; most are near.
    fn pooled(&mut self, pool: u16) -> Mfn {
        let frames = &self.pools[usize::from(pool)];
        match self.near {
            // As [`Self::build`] steps.
            Some(near) if self.random.below(4) != 0 => {
                frames[(near + 7 * self.random.below(9) as usize) % FRAMES]
            }
            _ => self.random.of(frames),
        }
    }

    fn mfn(&mut self, dom: u16) -> Mfn {
        let dom = match self.random.one_in(12) {
            true => self.random.below(3) as u16,
            false => dom,
        };
        let shared = self.rig.domains[usize::from(dom)].shared_info;
        match self.random.below(30) {
            0 => shared,
            1 => DEVICE,
            _ => self.pooled(dom),
        }
    }

    fn value(&mut self, dom: u16) -> u64 {
        let flags = match self.random.below(12) {
            0 => 0,
            1..5 => RW,
            5..9 => RO,
            9 => PRESENT | WRITABLE,
            10 => RW | 1 << self.random.below(12),
            _ => RO | 1 << (52 + self.random.below(12)),
        };
        to(self.mfn(dom), flags)
    }

    fn slot(&mut self) -> usize {
        self.random.of(&SLOTS)
    }

    /// The guest writes whatever it can write.
    fn scribble(&mut self, dom: u16) {
        let mfn = self.pooled(dom);
        let state = self.rig.state(mfn);
        let table = state.frame_type().needs_validation() && state.type_count() > 0;
        if !table || self.rig.machine.sim.tlbs().may_write(mfn) {
            let (slot, value) = (self.slot(), self.value(dom));
            self.rig.set(mfn, slot, value);
        }
    }

    /// The guest makes a tree of frames that it may write, and uses or pins its root.
    fn build(&mut self, dom: u16, vcpu: u16) -> (u64, [u64; 5]) {
        let pool = &self.pools[usize::from(dom)];
        let start = self.random.below(FRAMES as u64) as usize;
        let start = self.near.unwrap_or(start);
        let chosen: Vec<_> = (0..FRAMES)
            .map(|n| pool[(start + n * 7) % FRAMES])
            .filter(|mfn| {
                let state = self.rig.state(*mfn);
                state.type_count() == 0 && state.owner().is_some()
            })
            .take(9)
            .collect();
        let child = |n: usize| chosen.get(n).copied().unwrap_or(DEVICE);
        // A root, two tables each level below, and pages.
        for (table, children) in [
            (0, [1, 2]),
            (1, [3, 4]),
            (2, [4, 3]),
            (3, [5, 6]),
            (4, [6, 5]),
        ]
        .into_iter()
        .chain([(5, [7, 8]), (6, [8, 7])])
        {
            let Some(table) = chosen.get(table) else {
                break;
            };
            for slot in SLOTS {
                let n = children[self.random.below(2) as usize];
                let flags = match self.random.below(8) {
                    0 => 0,
                    1 => RO,
                    _ => RW,
                };
                self.rig.set(*table, slot, to(child(n), flags));
            }
        }
        let op = MmuextOp {
            cmd: self.random.of(&[3, 5, 5, 15]),
            arg1: child(0).0,
            ..MmuextOp::default()
        };
        let at = self.rig.put(dom, vcpu, &op);
        (26, [at, 1, 0, SELF, 0])
    }

    /// A guest's CPU walks its tables and remembers where they lead.
    fn touch(&mut self, dom: u16, vcpu: u16) {
        let Some(root) = self.rig.space(dom, vcpu).kernel() else {
            return;
        };
        let (mut table, mut writable) = (root, true);
        for level in (1..=4).rev() {
            let slots: Vec<_> = SLOTS
                .into_iter()
                .filter(|slot| level != 4 || *slot != 256)
                .filter(|slot| self.rig.get(table, *slot) & PRESENT != 0)
                .collect();
            if slots.is_empty() {
                return;
            }
            let slot = self.random.of(&slots);
            // It was looked up, and the CPU notes that.
            let words = self.rig.hv.hal.table(table).unwrap();
            let found = words[slot].fetch_or(ACCESSED, SeqCst);
            if found & PRESENT == 0 || self.rig.hv.memory.record(frame(found)).is_none() {
                return;
            }
            writable &= found & WRITABLE != 0;
            table = frame(found);
        }
        let tlbs = self.rig.machine.sim.tlbs();
        tlbs.fill(CpuId(vcpu), DomId(dom), table, writable);
    }

    fn updates(&mut self, dom: u16, vcpu: u16) -> (u64, [u64; 5]) {
        let count = 1 + self.random.below(3);
        let list: Vec<_> = (0..count)
            .map(|_| {
                let anywhere = self.mfn(dom).base().0 + self.slot() as u64 * 8;
                let entry = self.entry.filter(|_| self.random.below(4) != 0);
                MmuUpdate {
                    ptr: entry.unwrap_or(anywhere) + self.random.of(&[0, 0, 0, 2, 2, 1, 3, 4]),
                    val: self.value(dom),
                }
            })
            .collect();
        let foreign = match self.random.below(10) {
            0 => self.random.below(4),
            1 => {
                let tables = self.random.below(3);
                let frames = match self.mixes {
                    true => self.random.of(&[SELF, 0, 1, 2]),
                    false => tables,
                };
                (1 + tables) << 16 | frames
            }
            2 => 0x7ff1,
            _ => SELF,
        };
        let at = self.rig.put(dom, vcpu, list.as_slice());
        (1, [at, count, 0, foreign, 0])
    }

    fn operations(&mut self, dom: u16, vcpu: u16) -> (u64, [u64; 5]) {
        let count = 1 + self.random.below(3);
        let list: Vec<_> = (0..count)
            .map(|_| MmuextOp {
                cmd: self
                    .random
                    .of(&[0, 1, 2, 3, 3, 4, 4, 5, 5, 6, 15, 15, 16, 17]),
                arg1: match self.random.one_in(20) {
                    true => 0,
                    false => self.mfn(dom).0,
                },
                arg2: self.mfn(dom).0,
                ..MmuextOp::default()
            })
            .collect();
        let foreign = match self.random.below(10) {
            0 => self.random.below(4),
            _ => SELF,
        };
        let at = self.rig.put(dom, vcpu, list.as_slice());
        (26, [at, count, 0, foreign, 0])
    }

    fn mapping(&mut self, dom: u16, vcpu: u16) -> (u64, [u64; 5]) {
        let address = SLOTS.map(|slot| slot as u64);
        let address = self.random.of(&address) << 39
            | self.random.of(&address) << 30
            | self.random.of(&address) << 21
            | self.random.of(&address) << 12;
        let address = ((address << 16) as i64 >> 16) as u64;
        let flags = self.random.below(8);
        let _ = vcpu;
        (14, [address, self.value(dom), flags, 0, 0])
    }

    /// A frame of another domain is granted, mapped, and taken away again later: not before the mapping is undone.
    fn grant(&mut self, dom: u16, vcpu: u16) {
        let existing = !self.granted.is_empty() && self.random.one_in(2);
        if existing {
            let index = self.random.below(self.granted.len() as u64) as usize;
            let known = self.random.below(4) != 0;
            let Granted {
                mfn,
                held,
                mapper,
                place,
            } = self.granted[index];
            let flags = match held.uses {
                0 => MapFlags::HOST_MAP | MapFlags::READONLY,
                _ => MapFlags::HOST_MAP,
            };
            let other = self.mfn(mapper).base().0 + self.slot() as u64 * 8;
            let at = place.filter(|_| known).unwrap_or(other);
            let mapping = PvMapping {
                place: PvPlace::Entry(HostPhys(at)),
                mfn,
                flags,
            };
            let vcpu = self.rig.vcpu(mapper, vcpu);
            let caller = Caller {
                hv: &self.rig.hv,
                vcpu: &vcpu,
            };
            let tables = self.rig.tables();
            let new = self.random.one_in(2).then_some(GuestVirt(0));
            if place.is_none() {
                let mapped = tables.map_granted(caller, &mapping).is_ok();
                self.granted[index].place = mapped.then_some(at);
            } else if tables.unmap_granted(caller, &mapping, new).is_ok() {
                tables.flush_granted(caller);
                self.granted[index].place = None;
            }
            if self.granted[index].place.is_none() && self.random.one_in(4) {
                let gone = self.granted.swap_remove(index);
                self.end_grant(&gone);
            }
        } else if self.granted.len() < 6 {
            let granter = self.random.below(3) as u16;
            let mfn = self.random.of(&self.pools[usize::from(granter)]);
            let writable = self.random.one_in(2);
            let owner = self.rig.domains[usize::from(granter)].id();
            if self.rig.record(mfn).get_mapping(owner, writable).is_ok() {
                let held = Counts {
                    references: 1,
                    uses: writable.into(),
                };
                self.granted.push(Granted {
                    mfn,
                    held,
                    mapper: dom,
                    place: None,
                });
            }
        }
    }

    fn end_grant(&self, gone: &Granted) {
        let record = self.rig.record(gone.mfn);
        match record.put_mapping(gone.held.uses == 1) {
            Dropped::Kept => {}
            dropped => self.rig.hv.frame_dropped(record, gone.mfn, dropped),
        }
    }

    /// What is held by grants.
    fn held(&self) -> Vec<(Mfn, Counts)> {
        let granted = self.granted.iter();
        granted.map(|granted| (granted.mfn, granted.held)).collect()
    }

    fn trap(&mut self, dom: u16, vcpu: u16) {
        let size = self.random.of(&[1, 2, 4, 8]);
        let write = TrappedWrite {
            table: self.mfn(dom),
            offset: self.slot() * 8 + (self.random.below(8) as usize & !(size - 1)),
            value: self.value(dom),
            size,
            expected: self.random.one_in(3).then_some(0),
        };
        let (rights, space) = (self.rig.rights(dom), self.rig.space(dom, vcpu));
        let _ = self.rig.tables().write_trapped(write, &rights, space);
    }

    fn descriptors(&mut self, dom: u16, vcpu: u16) {
        let (mfn, owner) = (self.mfn(dom), self.rig.domains[usize::from(dom)].id());
        let tables = self.rig.tables();
        if tables.hold_descriptors(mfn, owner).is_ok() {
            self.rig.audit(&self.with_one_more(mfn));
            self.rig
                .tables()
                .drop_descriptors(mfn, self.rig.space(dom, vcpu));
        }
    }

    fn with_one_more(&self, mfn: Mfn) -> Vec<(Mfn, Counts)> {
        let one = Counts {
            references: 1,
            uses: 1,
        };
        let mut all = self.held();
        all.push((mfn, one));
        all
    }

    /// A frame is given back, and another one taken for it.
    fn exchange(&mut self, dom: u16) {
        let index = self.random.below(FRAMES as u64) as usize;
        let pool = usize::from(dom);
        let domain = &self.rig.domains[pool];
        if let Ok(new) = self.rig.hv.allocate_for(domain, 0, Place::ANY) {
            self.rig.hv.drop_allocation(domain, self.pools[pool][index]);
            self.pools[pool][index] = new;
        }
    }

    fn step(&mut self) {
        let dom = self.random.below(3) as u16;
        let vcpu = self.random.below(4) as u16;
        let cpu = self.rig.machine.sim.cpu_record(CpuId(vcpu));
        match self.random.one_in(3) {
            true => cpu.interrupt_after(self.random.below(4)),
            false => cpu.clear_interrupt(),
        }
        self.scribble(dom);
        for vcpu in 0..4 {
            self.touch(dom, vcpu);
        }
        let pending = self.again.remove(&(dom, vcpu));
        let (nr, args) = match (pending, self.random.below(40)) {
            (Some(call), 0..36) => call,
            (_, 0..8) => self.build(dom, vcpu),
            (_, 8..19) => self.updates(dom, vcpu),
            (_, 19..29) => self.operations(dom, vcpu),
            (_, 29..33) => self.mapping(dom, vcpu),
            (_, 33..36) => return self.grant(dom, vcpu),
            (_, 36) => return self.trap(dom, vcpu),
            (_, 37) => return self.descriptors(dom, vcpu),
            _ => return self.exchange(dom),
        };
        if let Outcome::Again(args) = self.rig.call_once(dom, vcpu, nr, args) {
            self.again.insert((dom, vcpu), (nr, args));
        }
    }

    /// All that was begun ends, and nothing is left.
    fn end(mut self) {
        self.rig.quiet();
        // Their vCPUs run no more.
        for cpu in 0..4 {
            self.rig.machine.sim.tlbs().flush(CpuId(cpu));
        }
        for gone in core::mem::take(&mut self.granted) {
            self.end_grant(&gone);
        }
        for dom in [2, 0, 1] {
            self.rig.destroy(dom);
            self.rig.audit(&[]);
        }
        // All RAM but what is the machine's is free again.
        let free = self.rig.hv.memory.free_frames();
        assert_eq!(free, RAM - 16, "something leaked");
    }

    fn run(seed: u64, steps: u64) -> u64 {
        let mut world = Self::new(seed);
        let mut tables = 0;
        for _ in 0..steps {
            world.step();
            world.rig.audit(&world.held());
            let count = |mfn: &&Mfn| world.rig.state(**mfn).validated();
            tables += world.pools[1].iter().filter(count).count() as u64;
        }
        world.end();
        tables
    }
}

#[test]
fn random_guests_never_write_a_table_and_leak_nothing() {
    let given = std::env::var("XENOLITH_SEED").ok();
    let given = given.and_then(|seed| seed.parse().ok());
    let seeds = given.map_or(1..17, |seed: u64| seed..seed + 1);
    let mut tables = 0;
    for seed in seeds {
        let run = || World::run(seed, 1000);
        let ended = std::panic::catch_unwind(run);
        tables += ended.unwrap_or_else(|_| panic!("failed: XENOLITH_SEED={seed}"));
    }
    assert!(tables > 1000, "the guests had only {tables} tables");
}
