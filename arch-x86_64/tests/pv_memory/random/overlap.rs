//! The same guests where calls of several CPUs meet half way.
//!
//! In a round four CPUs make a call each. One of them acts at a time; at each moment at which the hypervisor asks the machine for something
//! (between two entries of a check, before what an entry held is dropped, while it waits for a frame) another may be drawn to go on, and
//! guests write what they can write and have tables walked. What is drawn depends on the seed alone. At such moments no checked table may be written
//! by any TLB; after each round every count is right.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use xenolith_arch_x86_64::pv::memory::Level;
use xenolith_sim::Moment;

use super::*;

const CPUS: u16 = 4;
const NOBODY: usize = usize::MAX;

/// What a CPU does in a round.
#[derive(Clone, Copy)]
enum Step {
    Call(u64, [u64; 5]),
    Exchange(usize),
}

struct State {
    world: World,
    /// Who acts.
    acts: usize,
    /// Those of the round that have not ended.
    inside: Vec<usize>,
    /// Moments in a row at which a CPU waited for another.
    waits: u32,
    /// How often a call was left for another one.
    switches: u64,
}

struct Turns {
    state: Mutex<State>,
    changed: Condvar,
}

impl World {
    /// What guests do while CPUs are in the hypervisor.
    fn between(&mut self) {
        let (dom, vcpu) = (self.random.below(3) as u16, self.random.below(4) as u16);
        let dom = self.random.of(&[dom, self.focus]);
        match self.random.below(8) {
            0..3 => self.touch(dom, vcpu),
            3 => self.scribble(dom),
            4 => self.glance(),
            _ => {}
        }
    }

    /// What holds at every moment.
    fn glance(&self) {
        for mfn in self.pools.iter().flatten() {
            let state = self.rig.state(*mfn);
            if state.frame_type().needs_validation() && state.validated() {
                let written = self.rig.machine.sim.tlbs().may_write(*mfn);
                assert!(!written, "{mfn:?} is a table, and a TLB lets it be written");
            }
        }
    }

    /// Where calls of a round are to meet: frames of a domain that are near each other, some of them empty, and an entry of a table.
    fn gather(&mut self, dom: u16) {
        self.focus = dom;
        let near = self.random.below(FRAMES as u64) as usize;
        self.near = Some(near);
        let frames: Vec<_> = (0..9)
            .map(|n| self.pools[usize::from(dom)][(near + 7 * n) % FRAMES])
            .collect();
        for mfn in &frames {
            if self.rig.state(*mfn).type_count() == 0 && self.random.one_in(2) {
                for slot in 0..512 {
                    self.rig.set(*mfn, slot, 0);
                }
            }
        }
        let tables: Vec<_> = frames
            .into_iter()
            .filter(|mfn| self.rig.state(*mfn).validated())
            .collect();
        self.entry = match tables.is_empty() {
            true => None,
            false => Some(self.random.of(&tables).base().0 + self.slot() as u64 * 8),
        };
    }

    /// A request that is likely to be served: about a frame as it is now.
    fn aim(&mut self, dom: u16, vcpu: u16) -> (u64, [u64; 5]) {
        let mfn = self.pooled(dom);
        let state = self.rig.state(mfn);
        let level = Level::of(state.frame_type()).filter(|_| state.validated());
        let cmd = match level {
            Some(_) if self.random.one_in(2) => {
                let flags = self.random.of(&[0, RO, RW, RW]);
                // What the others work on, if that may be.
                let owner = match dom == 0 && self.random.one_in(2) {
                    true => self.focus,
                    false => dom,
                };
                let anywhere = mfn.base().0 + self.slot() as u64 * 8;
                let entry = self.entry.filter(|_| self.random.one_in(2));
                let request = MmuUpdate {
                    ptr: entry.unwrap_or(anywhere),
                    val: to(self.pooled(owner), flags),
                };
                let at = self.rig.put(dom, vcpu, &request);
                let owner = if owner == dom { SELF } else { owner.into() };
                return (1, [at, 1, 0, owner, 0]);
            }
            Some(Level::L4) => self.random.of(&[3, 4, 5, 5, 15]),
            Some(level) => self.random.of(&[4, 4, level as u32 - 1]),
            None => self.random.of(&[0, 0, 1, 1, 2, 3, 5]),
        };
        let op = MmuextOp {
            cmd,
            arg1: mfn.0,
            ..MmuextOp::default()
        };
        let at = self.rig.put(dom, vcpu, &op);
        (26, [at, 1, 0, SELF, 0])
    }

    fn choose(&mut self, dom: u16, vcpu: u16) -> Step {
        let pending = self.again.remove(&(dom, vcpu));
        let (nr, args) = match (pending, self.random.below(20)) {
            (Some(call), 0..18) => call,
            (_, 0..3) => self.build(dom, vcpu),
            (_, 3..6) => self.updates(dom, vcpu),
            (_, 6..8) => self.operations(dom, vcpu),
            (_, 8..18) => self.aim(dom, vcpu),
            (_, 18) => self.mapping(dom, vcpu),
            _ => return Step::Exchange(self.random.below(FRAMES as u64) as usize),
        };
        Step::Call(nr, args)
    }
}

impl Turns {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_for_turn<'a>(
        &'a self,
        own: usize,
        mut state: MutexGuard<'a, State>,
    ) -> MutexGuard<'a, State> {
        while state.acts != own {
            assert_ne!(state.acts, NOBODY, "another CPU failed");
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        state
    }

    /// Another CPU may be drawn to go on.
    fn pass(&self, own: usize, moment: Moment) {
        let mut state = self.state();
        state.world.between();
        let goes_on = match moment {
            Moment::Any => state.world.random.one_in(2),
            Moment::Waiting => false,
        };
        state.waits = match moment {
            Moment::Any => 0,
            Moment::Waiting => state.waits + 1,
        };
        assert!(state.waits < 10_000, "all CPUs wait for each other");
        let others: Vec<_> = state.inside.iter().copied().filter(|n| *n != own).collect();
        if goes_on || others.is_empty() {
            return;
        }
        state.acts = state.world.random.of(&others);
        state.switches += 1;
        self.changed.notify_all();
        drop(self.wait_for_turn(own, state));
    }

    /// A CPU has ended its call, or failed.
    fn leave(&self, own: usize) {
        let mut state = self.state();
        state.inside.retain(|n| *n != own);
        let left = state.inside.clone();
        state.acts = match left.is_empty() || std::thread::panicking() {
            true => NOBODY,
            false => state.world.random.of(&left),
        };
        self.changed.notify_all();
    }
}

/// Ends a CPU's part in a round.
struct Inside<'a>(&'a Turns, usize);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.leave(self.1);
    }
}

/// One CPU's part.
fn act(turns: &Arc<Turns>, dom: u16, vcpu: u16, step: Step) {
    let own = usize::from(vcpu);
    let _inside = Inside(turns, own);
    let rig = turns.wait_for_turn(own, turns.state()).world.rig.clone();
    let hook = {
        let turns = turns.clone();
        move |moment| turns.pass(own, moment)
    };
    let sim = &rig.machine.sim;
    match step {
        Step::Call(nr, args) => {
            let outcome = sim.with_hook(hook, || rig.call_once(dom, vcpu, nr, args));
            if let Outcome::Again(args) = outcome {
                turns.state().world.again.insert((dom, vcpu), (nr, args));
            }
        }
        Step::Exchange(index) => {
            let domain = &rig.domains[usize::from(dom)];
            if let Ok(new) = rig.hv.allocate_for(domain, 0, Place::ANY) {
                let mut state = turns.state();
                let place = &mut state.world.pools[usize::from(dom)][index];
                let old = core::mem::replace(place, new);
                drop(state);
                sim.with_hook(hook, || {
                    sim.run_as(CpuId(vcpu), || rig.hv.drop_allocation(domain, old))
                });
            }
        }
    }
}

fn round(turns: &Arc<Turns>) {
    let mut steps = Vec::new();
    {
        let mut state = turns.state();
        let world = &mut state.world;
        let most = world.random.below(3) as u16;
        world.gather(most);
        for vcpu in 0..CPUS {
            let dom = match world.random.one_in(4) {
                true => world.random.below(3) as u16,
                false => most,
            };
            let cpu = world.rig.machine.sim.cpu_record(CpuId(vcpu));
            match world.random.one_in(3) {
                true => cpu.interrupt_after(world.random.below(6)),
                false => cpu.clear_interrupt(),
            }
            steps.push((dom, vcpu, world.choose(dom, vcpu)));
        }
        let (dom, vcpu) = (world.random.below(3) as u16, world.random.below(4) as u16);
        if world.random.one_in(3) {
            world.grant(dom, vcpu);
        }
        state.inside = (0..usize::from(CPUS)).collect();
        state.acts = state.world.random.below(u64::from(CPUS)) as usize;
    }
    std::thread::scope(|scope| {
        for (dom, vcpu, step) in steps {
            scope.spawn(move || act(turns, dom, vcpu, step));
        }
    });
}

fn run(seed: u64, rounds: u64) -> (u64, u64) {
    let turns = Arc::new(Turns {
        state: Mutex::new(State {
            world: World::new(seed),
            acts: NOBODY,
            inside: Vec::new(),
            waits: 0,
            switches: 0,
        }),
        changed: Condvar::new(),
    });
    let mut tables = 0;
    for _ in 0..rounds {
        round(&turns);
        let state = turns.state();
        let world = &state.world;
        world.rig.audit(&world.held());
        let count = |mfn: &&Mfn| world.rig.state(**mfn).validated();
        tables += world.pools[1].iter().filter(count).count() as u64;
    }
    let turns = Arc::into_inner(turns).expect("every CPU has ended");
    let state = turns.state.into_inner().expect("none has failed");
    state.world.end();
    (tables, state.switches)
}

#[test]
fn calls_that_meet_half_way_leave_every_count_right() {
    let given = std::env::var("XENOLITH_SEED").ok();
    let given = given.and_then(|seed| seed.parse().ok());
    let seeds = given.map_or(1..13, |seed: u64| seed..seed + 1);
    let (mut tables, mut switches) = (0, 0);
    for seed in seeds {
        let ended = std::panic::catch_unwind(|| run(seed, 1000));
        let (more_tables, more_switches) =
            ended.unwrap_or_else(|_| panic!("failed: XENOLITH_SEED={seed}"));
        tables += more_tables;
        switches += more_switches;
    }
    assert!(tables > 1000, "the guests had only {tables} tables");
    assert!(switches > 10_000, "CPUs met only {switches} times");
}
