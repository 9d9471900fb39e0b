//! Real threads as CPUs of one domain that check, change and undo the same tables at the same time.

use xenolith_abi::x86_64::{MmuUpdate, MmuextOp};
use xenolith_arch_x86_64::pv::memory::entry::*;
use xenolith_core::hypercall::Outcome;
use xenolith_hal::{CpuId, Mfn};

use super::rig::*;

struct Cpu<'a> {
    rig: &'a Rig,
    id: u16,
    state: u64,
}

impl Cpu<'_> {
    fn below(&mut self, limit: u64) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        (self.state >> 11) % limit
    }

    fn call(&mut self, nr: u64, mut args: [u64; 5]) {
        let record = self.rig.machine.sim.cpu_record(CpuId(self.id));
        loop {
            match self.below(4) {
                0 => record.interrupt_after(self.below(5)),
                _ => record.clear_interrupt(),
            }
            match self.rig.call_once(1, self.id, nr, args) {
                Outcome::Done(_) => return,
                Outcome::Again(again) => args = again,
            }
        }
    }

    fn update(&mut self, table: Mfn, slot: u64, value: u64) {
        let request = MmuUpdate {
            ptr: table.base().0 + slot * 8 + self.below(2) * 2,
            val: value,
        };
        let at = self.rig.put(1, self.id, &request);
        self.call(1, [at, 1, 0, SELF, 0]);
    }

    fn operate(&mut self, cmd: u32, mfn: Mfn) {
        let op = MmuextOp {
            cmd,
            arg1: mfn.0,
            ..MmuextOp::default()
        };
        let at = self.rig.put(1, self.id, &op);
        self.call(26, [at, 1, 0, SELF, 0]);
    }
}

#[test]
fn cpus_that_race_on_the_same_tables_leave_every_count_right() {
    let rig = Rig::new();
    let trees: Vec<_> = (0..3).map(|_| rig.tree(1, RW)).collect();
    for tree in &trees {
        // Each tree holds parts of the others.
        for (level, other) in trees.iter().enumerate() {
            rig.set(tree[0], 1 + level, to(other[1], RW));
            rig.set(tree[1], 1 + level, to(other[2], RW));
            rig.set(tree[2], 1 + level, to(other[3], RW));
            rig.set(tree[3], 1 + level, to(other[0], RO));
        }
    }
    std::thread::scope(|scope| {
        for id in 0..4 {
            let (rig, trees) = (&rig, &trees);
            scope.spawn(move || {
                let mut cpu = Cpu {
                    rig,
                    id,
                    state: 0x9e37_79b9_7f4a_7c15 ^ u64::from(id) << 32 | 1,
                };
                for _ in 0..3000 {
                    let (tree, other) = (cpu.below(3) as usize, cpu.below(3) as usize);
                    let (level, slot) = (cpu.below(4) as usize, cpu.below(5));
                    let (tree, other) = (trees[tree], trees[other]);
                    let flags = [0, RO, RW, RW | ACCESSED][cpu.below(4) as usize];
                    match cpu.below(8) {
                        0 => cpu.operate(3 - level as u32, tree[level]),
                        1 => cpu.operate(4, tree[level]),
                        2 => cpu.operate(5, tree[0]),
                        3 => cpu.operate(15, tree[0]),
                        4 => cpu.operate(15, Mfn(0)),
                        5 => cpu.update(tree[3], slot, to(other[4], flags)),
                        6 => cpu.update(tree[3], slot, to(other[level], flags)),
                        _ => cpu.update(tree[level], slot, to(other[level + 1], flags)),
                    }
                }
            });
        }
    });
    rig.quiet();
    rig.audit(&[]);
    rig.destroy(1);
    rig.audit(&[]);
    for tree in &trees {
        assert!(tree.iter().all(|mfn| rig.state(*mfn).owner().is_none()));
    }
}
