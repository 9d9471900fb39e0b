//! The model of the virtual interrupt controller against a model of the hardware.

mod machine;
mod random;
mod registers;

use core::cell::RefCell;
use std::{collections::BTreeSet, vec::Vec};

use machine::Cpu;
use xenolith_hal::CpuId;

use super::{REDIST_SIZE, Size, VgicConfig, VgicDomain, affinity_of, hw::Hardware};
use crate::gic::Ppis;

const TIMER: u32 = 27;

/// A domain whose vCPU n is loaded on CPU n.
struct Rig<const V3: bool> {
    domain: VgicDomain,
    cpus: Vec<Cpu<V3>>,
    notified: RefCell<BTreeSet<usize>>,
}

impl<const V3: bool> Rig<V3> {
    /// Everything enabled, all interrupt interfaces open.
    fn new(vcpus: usize, lines: u32) -> Self {
        let rig = Self::closed(vcpus, lines);
        for vcpu in 0..vcpus {
            rig.cpus[vcpu].open();
            if V3 {
                rig.redist_write(vcpu, vcpu, 0x1_0100, u64::from(u32::MAX));
            } else {
                rig.dist_write(vcpu, 0x100, u64::from(u32::MAX));
            }
        }
        for n in 1..lines.div_ceil(32) {
            rig.dist_write(0, 0x100 + n * 4, u64::from(u32::MAX));
        }
        rig.dist_write(0, 0, 3);
        rig
    }

    fn closed(vcpus: usize, lines: u32) -> Self {
        let domain = VgicDomain::new(&VgicConfig {
            version: Cpu::<V3>::VERSION,
            vcpus,
            lines,
            ppis: Ppis::default(),
        });
        let mut cpus: Vec<Cpu<V3>> = (0..vcpus).map(|_| Cpu::default()).collect();
        let active = cpus[0].active.clone();
        for (cpu, id) in cpus.iter_mut().zip(0..) {
            cpu.id = id;
            cpu.active = active.clone();
        }
        for (index, cpu) in cpus.iter().enumerate() {
            domain.vcpu(index).unwrap().load(cpu, CpuId(index as u16));
        }
        Self {
            domain,
            cpus,
            notified: RefCell::default(),
        }
    }

    fn note(&self) -> impl FnMut(usize) + '_ {
        |vcpu| {
            self.notified.borrow_mut().insert(vcpu);
        }
    }

    fn dist_write(&self, vcpu: usize, offset: u32, value: u64) {
        self.domain
            .dist_write(
                &self.cpus[vcpu],
                vcpu,
                offset,
                Size::Word,
                value,
                self.note(),
            )
            .unwrap();
    }

    fn dist_read(&self, vcpu: usize, offset: u32) -> u32 {
        self.domain
            .dist_read(&self.cpus[vcpu], vcpu, offset, Size::Word, self.note())
            .unwrap() as u32
    }

    fn redist_write(&self, vcpu: usize, owner: usize, offset: u32, value: u64) {
        self.domain
            .redist_write(
                &self.cpus[vcpu],
                vcpu,
                owner,
                offset,
                Size::Word,
                value,
                self.note(),
            )
            .unwrap();
    }

    fn redist_read(&self, vcpu: usize, owner: usize, offset: u32) -> u32 {
        self.domain
            .redist_read(
                &self.cpus[vcpu],
                vcpu,
                owner,
                offset,
                Size::Word,
                self.note(),
            )
            .unwrap() as u32
    }

    /// What happens on the way into the guest.
    fn enter(&self, vcpu: usize) {
        if self.cpus[vcpu].maintenance() {
            self.domain.vcpu(vcpu).unwrap().maintenance();
        }
        self.domain.flush(&self.cpus[vcpu], vcpu, self.note());
        assert!(
            !self.cpus[vcpu].maintenance(),
            "the maintenance interrupt is quiet after a flush"
        );
    }

    /// The guest takes one interrupt.
    fn take(&self, vcpu: usize) -> Option<u32> {
        self.enter(vcpu);
        self.cpus[vcpu].acknowledge().map(|(intid, _)| intid)
    }

    /// The guest takes and ends everything that comes.
    fn take_all(&self, vcpu: usize) -> Vec<u32> {
        let mut taken = Vec::new();
        while let Some(intid) = self.take(vcpu) {
            self.cpus[vcpu].end(intid);
            taken.push(intid);
        }
        taken
    }

    fn has_deliverable(&self, vcpu: usize) -> bool {
        self.domain
            .vcpu(vcpu)
            .unwrap()
            .has_deliverable(&self.cpus[vcpu], true)
    }
}

fn self_sgi(index: usize, sgi: u64) -> u64 {
    super::sgi::to_self(index) | sgi << 24
}

#[test]
fn a_software_interrupt_to_oneself_goes_straight_into_a_list_register() {
    let rig = Rig::<true>::new(1, 64);
    rig.enter(0);
    rig.cpus[0].lr_accesses.set(0);
    for _ in 0..3 {
        rig.domain
            .sgi1r(&rig.cpus[0], 0, self_sgi(0, 5), rig.note());
        assert!(!rig.domain.vcpu(0).unwrap().needs_flush());
        assert_eq!(rig.cpus[0].acknowledge(), Some((5, 0xa0)));
        rig.cpus[0].end(5);
    }
    assert_eq!(
        rig.cpus[0].lr_accesses.get(),
        1 + 2 + 2,
        "the first finds a free register, the next look at their own again"
    );
}

#[test]
fn a_software_interrupt_raised_while_active_comes_again_once() {
    let rig = Rig::<true>::new(1, 64);
    rig.domain
        .sgi1r(&rig.cpus[0], 0, self_sgi(0, 1), rig.note());
    assert_eq!(rig.take(0), Some(1));
    for _ in 0..3 {
        rig.domain
            .sgi1r(&rig.cpus[0], 0, self_sgi(0, 1), rig.note());
    }
    assert_eq!(rig.take(0), None, "it does not preempt itself");
    rig.cpus[0].end(1);
    assert_eq!(rig.take_all(0), [1]);
}

#[test]
fn a_target_list_reaches_exactly_the_vcpus_it_names() {
    let rig = Rig::<true>::new(20, 64);
    // vCPUs 16, 18 and (not there) 31 of the second cluster.
    let value = 1 | 1 << 2 | 1 << 15 | 1 << 16 | 7 << 24;
    rig.domain.sgi1r(&rig.cpus[0], 0, value, rig.note());
    assert!(rig.notified.borrow().iter().eq(&[16, 18]));
    for vcpu in 0..20 {
        let expected: &[u32] = if vcpu == 16 || vcpu == 18 { &[7] } else { &[] };
        assert_eq!(rig.take_all(vcpu), expected);
    }
    rig.domain
        .sgi1r(&rig.cpus[3], 3, 1 << 40 | 2 << 24, rig.note());
    for vcpu in 0..20 {
        let expected: &[u32] = if vcpu == 3 { &[] } else { &[2] };
        assert_eq!(rig.take_all(vcpu), expected);
    }
}

#[test]
fn more_pending_interrupts_than_list_registers_come_in_order_of_priority() {
    let rig = Rig::<true>::new(1, 96);
    for intid in 32..64 {
        rig.domain
            .dist_write(
                &rig.cpus[0],
                0,
                0x400 + intid,
                Size::Byte,
                u64::from((63 - intid) * 8),
                rig.note(),
            )
            .unwrap();
    }
    for intid in 32..64 {
        rig.domain.inject(0, intid, rig.note());
    }
    let taken = rig.take_all(0);
    assert!(taken.iter().copied().eq((32..64).rev()), "{taken:?}");
}

#[test]
fn a_better_interrupt_takes_the_place_of_one_that_waits() {
    let rig = Rig::<true>::new(1, 64);
    for intid in 32..36 {
        rig.domain.inject(0, intid, rig.note());
    }
    rig.enter(0);
    rig.domain
        .dist_write(&rig.cpus[0], 0, 0x400 + 40, Size::Byte, 0x20, rig.note())
        .unwrap();
    rig.domain.inject(0, 40, rig.note());
    assert_eq!(rig.take(0), Some(40));
    rig.cpus[0].end(40);
    let mut rest = rig.take_all(0);
    rest.sort_unstable();
    assert_eq!(rest, [32, 33, 34, 35]);
}

#[test]
fn a_line_is_pending_again_after_each_end_until_it_falls() {
    let rig = Rig::<true>::new(1, 64);
    rig.domain.set_line(0, 40, true, rig.note());
    for _ in 0..3 {
        assert_eq!(rig.take(0), Some(40));
        assert_eq!(rig.take(0), None, "not while it is active");
        rig.cpus[0].end(40);
    }
    rig.domain.set_line(0, 40, false, rig.note());
    assert_eq!(rig.take(0), None);
    assert!(!rig.has_deliverable(0));
}

#[test]
fn a_line_that_falls_before_it_is_seen_leaves_nothing() {
    let rig = Rig::<false>::new(1, 64);
    for intid in [20, 40] {
        rig.domain.set_line(0, intid, true, rig.note());
        rig.enter(0);
        assert!(rig.has_deliverable(0));
        rig.domain.set_line(0, intid, false, rig.note());
        assert_eq!(rig.take(0), None);
    }
}

#[test]
fn a_disabled_interrupt_waits_until_it_is_enabled() {
    let rig = Rig::<true>::new(1, 64);
    rig.domain.inject(0, 40, rig.note());
    rig.enter(0);
    rig.dist_write(0, 0x184, 1 << 8);
    assert_eq!(rig.take(0), None);
    assert_eq!(rig.dist_read(0, 0x204), 1 << 8, "it is still pending");
    rig.dist_write(0, 0x104, 1 << 8);
    assert_eq!(rig.take_all(0), [40]);
}

#[test]
fn the_distributor_switched_off_holds_everything_back() {
    let rig = Rig::<true>::new(2, 64);
    rig.dist_write(0, 0, 0);
    rig.domain.inject(1, 3, rig.note());
    rig.domain.inject(0, 40, rig.note());
    assert_eq!(rig.take(0), None);
    assert_eq!(rig.take(1), None);
    rig.notified.borrow_mut().clear();
    rig.dist_write(0, 0, 2);
    assert!(rig.notified.borrow().contains(&1));
    assert_eq!(rig.take_all(0), [40]);
    assert_eq!(rig.take_all(1), [3]);
}

#[test]
fn a_physical_interrupt_stays_active_until_the_guest_deactivates_it() {
    let rig = Rig::<true>::new(1, 64);
    rig.domain.link_physical(50);
    rig.dist_write(0, 0x184, 1 << 18);
    assert!(!rig.cpus[0].physical_enabled.borrow().contains(&50));
    rig.dist_write(0, 0x104, 1 << 18);
    assert!(rig.cpus[0].physical_enabled.borrow().contains(&50));
    rig.cpus[0].fire(50);
    rig.domain.physical_spi(50, CpuId(0), rig.note());
    assert_eq!(rig.take(0), Some(50));
    assert!(rig.cpus[0].is_active(50));
    rig.cpus[0].end(50);
    assert!(!rig.cpus[0].is_active(50));
}

#[test]
fn a_guest_that_clears_pending_or_active_state_frees_the_physical_interrupt() {
    let rig = Rig::<true>::new(1, 64);
    rig.domain.link_physical(50);
    rig.dist_write(0, 0x104, 1 << 18);
    for flushed in [false, true] {
        rig.cpus[0].fire(50);
        rig.domain.physical_spi(50, CpuId(0), rig.note());
        if flushed {
            rig.enter(0);
        }
        rig.dist_write(0, 0x284, 1 << 18);
        assert_eq!(rig.take(0), None);
        assert!(!rig.cpus[0].is_active(50));
    }
    rig.cpus[0].fire(50);
    rig.domain.physical_spi(50, CpuId(0), rig.note());
    assert_eq!(rig.take(0), Some(50));
    rig.dist_write(0, 0x384, 1 << 18);
    rig.enter(0);
    assert!(!rig.cpus[0].is_active(50));
    assert_eq!(rig.dist_read(0, 0x304), 0);
}

#[test]
fn the_timer_is_silent_until_its_end_and_its_active_state_moves_with_the_vcpu() {
    let rig = Rig::<true>::new(2, 64);
    let (first, second) = (rig.domain.vcpu(0).unwrap(), rig.domain.vcpu(1).unwrap());
    let cpu = &rig.cpus[0];
    second.save(&rig.cpus[1]);
    cpu.fire(TIMER);
    first.timer_fired(cpu);
    assert_eq!(rig.take(0), Some(TIMER));
    first.save(cpu);
    assert!(!cpu.is_active(TIMER), "the next vCPU's timer can fire");
    second.load(cpu, CpuId(0));
    assert!(!cpu.is_active(TIMER));
    cpu.fire(TIMER);
    second.timer_fired(cpu);
    second.save(cpu);
    first.load(&rig.cpus[1], CpuId(1));
    assert!(rig.cpus[1].is_active(TIMER));
    rig.cpus[1].end(TIMER);
    first.save(&rig.cpus[1]);
    assert!(!rig.cpus[1].is_active(TIMER));
}

#[test]
fn a_shared_interrupt_follows_its_route() {
    let rig = Rig::<true>::new(4, 64);
    rig.domain
        .dist_write(
            &rig.cpus[0],
            0,
            0x6000 + 40 * 8,
            Size::Double,
            u64::from(affinity_of(2)),
            rig.note(),
        )
        .unwrap();
    rig.domain.inject(0, 40, rig.note());
    assert!(rig.notified.borrow().contains(&2));
    assert_eq!(rig.take(0), None);
    // Waiting, it moves; to nobody, it waits for somebody.
    rig.domain
        .dist_write(
            &rig.cpus[0],
            0,
            0x6000 + 40 * 8,
            Size::Double,
            9,
            rig.note(),
        )
        .unwrap();
    assert_eq!(rig.take(2), None);
    rig.domain
        .dist_write(
            &rig.cpus[0],
            0,
            0x6000 + 40 * 8,
            Size::Double,
            3,
            rig.note(),
        )
        .unwrap();
    assert_eq!(rig.take_all(3), [40]);
    // Raised again when handled here but routed away meanwhile.
    rig.domain.inject(0, 40, rig.note());
    assert_eq!(rig.take(3), Some(40));
    rig.domain
        .dist_write(
            &rig.cpus[0],
            0,
            0x6000 + 40 * 8,
            Size::Double,
            1,
            rig.note(),
        )
        .unwrap();
    rig.cpus[3].end(40);
    rig.domain.inject(0, 40, rig.note());
    assert_eq!(rig.take_all(3), []);
    assert_eq!(rig.take_all(1), [40]);
}

#[test]
fn gicv2_software_interrupts_keep_each_sender() {
    let rig = Rig::<false>::new(4, 64);
    for sender in [1, 3] {
        rig.dist_write(sender, 0xf00, 1 << 16 | 4);
    }
    assert_eq!(
        rig.domain
            .dist_read(&rig.cpus[0], 0, 0xf24, Size::Byte, |_| {}),
        Ok(0b1010)
    );
    let mut senders = Vec::new();
    while let Some(sgi) = rig.take(0) {
        assert_eq!(sgi, 4);
        senders.push(rig.cpus[0].sender(4));
        rig.cpus[0].end(4);
    }
    assert_eq!(senders, [1, 3]);
}

#[test]
fn gicv2_filters_choose_the_others_or_oneself() {
    let rig = Rig::<false>::new(3, 64);
    rig.dist_write(1, 0xf00, 1 << 24 | 6);
    rig.dist_write(1, 0xf00, 2 << 24 | 7);
    assert_eq!(rig.take_all(0), [6]);
    assert_eq!(rig.take_all(1), [7]);
    assert_eq!(rig.take_all(2), [6]);
}

#[test]
fn a_masked_priority_is_not_deliverable() {
    let rig = Rig::<true>::new(1, 64);
    rig.cpus[0].set_mask(0xa0);
    rig.domain.inject(0, 3, rig.note());
    assert!(!rig.has_deliverable(0));
    rig.enter(0);
    assert!(!rig.has_deliverable(0));
    rig.cpus[0].set_mask(0xf0);
    assert!(rig.has_deliverable(0));
    rig.domain.vcpu(0).unwrap().save(&rig.cpus[0]);
    assert!(rig.has_deliverable(0), "asleep too");
}

#[test]
fn what_is_raised_for_a_sleeping_vcpu_is_there_when_it_wakes() {
    let rig = Rig::<true>::new(1, 64);
    let v = rig.domain.vcpu(0).unwrap();
    v.save(&rig.cpus[0]);
    rig.domain.inject(0, 3, rig.note());
    rig.domain.inject(0, 33, rig.note());
    assert!(rig.notified.borrow().contains(&0));
    assert!(rig.has_deliverable(0));
    v.load(&rig.cpus[0], CpuId(0));
    assert_eq!(rig.take_all(0), [3, 33]);
}

#[test]
fn a_quiet_vcpu_is_entered_without_a_look_at_its_list_registers() {
    let rig = Rig::<true>::new(1, 64);
    rig.domain.inject(0, 3, rig.note());
    rig.enter(0);
    rig.cpus[0].lr_accesses.set(0);
    for _ in 0..10 {
        rig.enter(0);
    }
    assert_eq!(rig.cpus[0].lr_accesses.get(), 0);
}

#[test]
fn redistributors_of_vcpus_lie_behind_one_another() {
    let rig = Rig::<true>::new(3, 64);
    assert_eq!(REDIST_SIZE, 0x2_0000);
    for owner in 0..3 {
        let typer = rig
            .domain
            .redist_read(&rig.cpus[0], 0, owner, 8, Size::Double, rig.note())
            .unwrap();
        assert_eq!(typer >> 32, owner as u64);
        assert_eq!(typer >> 4 & 1, u64::from(owner == 2));
    }
    assert_eq!(
        rig.domain
            .redist_read(&rig.cpus[0], 0, 3, 8, Size::Double, rig.note()),
        Ok(0)
    );
}

/// A physical interrupt must become inactive also when the CPU that took it is not the one where the guest ends it.
fn a_physical_interrupt_ends_wherever_its_vcpu_runs<const V3: bool>() {
    let rig = Rig::<V3>::new(2, 64);
    rig.domain.link_physical(50);
    let (first, second) = (rig.domain.vcpu(0).unwrap(), rig.domain.vcpu(1).unwrap());
    // Taken by CPU 1, handled on CPU 0.
    rig.cpus[1].fire(50);
    rig.domain.physical_spi(50, CpuId(1), rig.note());
    if V3 {
        rig.cpus[1].finish_shared(50);
        rig.cpus[0].fire(50);
    }
    assert_eq!(rig.take_all(0), [50]);
    rig.enter(0);
    assert!(!rig.cpus[0].is_active(50));
    // Taken by CPU 0, moved to CPU 1 while active.
    rig.cpus[0].fire(50);
    rig.domain.physical_spi(50, CpuId(0), rig.note());
    assert_eq!(rig.take(0), Some(50));
    first.save(&rig.cpus[0]);
    second.save(&rig.cpus[1]);
    first.load(&rig.cpus[1], CpuId(1));
    if V3 {
        rig.cpus[1].finish_shared(50);
        rig.cpus[1].fire(50);
    }
    assert!(rig.cpus[1].is_active(50));
    rig.cpus[1].end(50);
    if rig.cpus[1].maintenance() {
        first.maintenance();
    }
    rig.domain.flush(&rig.cpus[1], 0, rig.note());
    assert!(!rig.cpus[1].is_active(50));
    assert_eq!(
        rig.cpus[1].routed.borrow().get(&50),
        Some(&1),
        "it comes to the new CPU"
    );
}

#[test]
fn a_gicv2_physical_interrupt_ends_wherever_its_vcpu_runs() {
    a_physical_interrupt_ends_wherever_its_vcpu_runs::<false>();
}

#[test]
fn a_gicv3_physical_interrupt_ends_wherever_its_vcpu_runs() {
    a_physical_interrupt_ends_wherever_its_vcpu_runs::<true>();
}
