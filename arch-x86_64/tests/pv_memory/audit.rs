//! Counts what the tables hold and compares it with what the frames' records say.

use std::{collections::HashMap, sync::atomic::Ordering::SeqCst};

use xenolith_arch_x86_64::pv::memory::{ENTRIES, Level, entry::*};
use xenolith_core::memory::{Charge, FrameType};
use xenolith_hal::{Hal, Mfn};

use super::rig::Rig;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub references: u64,
    pub uses: u64,
}

impl Rig {
    /// Every frame's counts are what allocation, tables, pins, vCPUs and `others` hold, and nothing that a table's entry
    /// lets be written is a table.
    pub fn audit(&self, others: &[(Mfn, Counts)]) {
        let mut expected: HashMap<Mfn, Counts> = HashMap::new();
        let mut add = |mfn: Mfn, references: u64, uses: u64| {
            let counts = expected.entry(mfn).or_default();
            counts.references += references;
            counts.uses += uses;
        };
        let frames: Vec<_> = self
            .hv
            .memory
            .table()
            .banks()
            .iter()
            .flat_map(|bank| (bank.first.0..bank.end().0).map(Mfn))
            .collect();
        for mfn in frames.iter().copied() {
            let record = self.record(mfn);
            let state = record.state();
            if state.owner().is_none() {
                continue;
            }
            assert!(!state.locked(), "{mfn:?} is left locked: {state:?}");
            add(mfn, state.allocated().into(), 0);
            if state.type_count() == 0 {
                continue;
            }
            let Some(level) = Level::of(state.frame_type()) else {
                continue;
            };
            if record.is_pinned() {
                add(mfn, 1, 1);
            }
            let progress = record.progress();
            let entries = match (state.validated(), level) {
                (true, _) => ENTRIES,
                (false, Level::L1) => panic!("an L1 table is never half checked"),
                (false, _) => progress.entries,
            };
            let words = self.hv.hal.table(mfn).unwrap();
            for (slot, word) in words.iter().enumerate() {
                let held = word.load(SeqCst);
                if held & PRESENT == 0 || level.is_hypervisors(slot) {
                    continue;
                }
                let child = frame(held);
                if slot == entries && progress.half && !state.validated() {
                    add(child, 1, 1);
                    continue;
                }
                let Some(child_record) = self.hv.memory.record(child) else {
                    continue;
                };
                if slot >= entries || child_record.state().owner().is_none() {
                    continue;
                }
                let kind = child_record.state().frame_type();
                if level == Level::L1 {
                    let writable = holds_writing(held);
                    add(child, 1, writable.into());
                    if writable {
                        assert_eq!(kind, FrameType::Writable, "{child:?} in {mfn:?}[{slot}]");
                    }
                } else if child != mfn {
                    let linear = kind == level.frame_type();
                    assert!(!linear || held & WRITABLE == 0);
                    add(child, 1, 1);
                    let below = level.below().unwrap().frame_type();
                    assert!(linear || kind == below, "{child:?} in {mfn:?}[{slot}]");
                    assert!(!state.validated() || child_record.state().validated());
                }
            }
        }
        for domain in &self.domains {
            // What the hypervisor writes into.
            if self.state(domain.shared_info).owner() == Some(domain.id()) && domain.is_pv() {
                add(domain.shared_info, 0, 1);
            }
        }
        for space in self.machine.spaces.values() {
            for held in space.held() {
                add(held, 1, 1);
            }
        }
        for (mfn, counts) in others {
            add(*mfn, counts.references, counts.uses);
        }
        for mfn in frames {
            let state = self.state(mfn);
            if state.owner().is_none() {
                assert_eq!(expected.get(&mfn), None, "{mfn:?} is used but nobody's");
                continue;
            }
            let counts = expected.get(&mfn).copied().unwrap_or_default();
            let said = Counts {
                references: state.count(),
                uses: state.type_count(),
            };
            assert_eq!(said, counts, "{mfn:?} {state:?}");
            if state.frame_type().needs_validation() && state.type_count() > 0 {
                let written = self.machine.sim.tlbs().may_write(mfn);
                assert!(!written, "{mfn:?} is a table, and a TLB lets it be written");
            }
        }
    }

    /// Frames that the domain still has in use as anything.
    pub fn uses_of(&self, dom: u16) -> u64 {
        let banks = self.hv.memory.table().banks();
        let frames = banks
            .iter()
            .flat_map(|bank| (bank.first.0..bank.end().0).map(Mfn));
        frames
            .map(|mfn| self.state(mfn))
            .filter(|state| state.owner().is_some_and(|owner| owner.0 == dom))
            .filter(|state| state.charge() == Charge::Memory)
            .map(|state| state.type_count())
            .sum()
    }
}
