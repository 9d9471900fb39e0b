//! What tools and the hypervisor itself do to domains: make and destroy them, stop them, move them, bind their memory.

use std::sync::{Arc, atomic::Ordering::SeqCst};

use xenolith_abi::virq::Virq;
use xenolith_core::{
    DomId, DomainRef, VcpuRef,
    domain::{Destroyed, DomainConfig, GuestKind, LifeState},
    memory::{MAX_ORDER, Place},
    sched::Affinity,
    timer::VcpuTimer,
};
use xenolith_hal::{ArchTimer, CpuId, CpuMask, Gfn, Hal, Mfn, Nanos, P2m, P2mType};
use xenolith_sim::{Sim, SimDomain, SimVcpu};

use crate::{
    guest::{DATA, GuestModel, INFO},
    machine::{BANKS, CPUS, Dom, Machine},
    pv::{frame_of, map_own},
};

/// First guest frame of a domain whose frames have numbers of its own.
const BASE: u64 = 0x10;

impl Machine {
    /// Tools do something, on the CPU where they run.
    pub fn manage(&mut self, _cpu: CpuId) {
        let Some(at) = self.any_dom() else {
            return self.create_some();
        };
        let index = self.random.below(self.doms[at].guests.len() as u64) as usize;
        let vcpu = self.doms[at].vcpu(index);
        let dying = self.doms[at].destroying;
        match self.random.below(32) {
            0..=4 => self.create_some(),
            5 if self.doms[at].domain.id() != DomId(0) => {
                self.note(|| format!("{} is to be destroyed", vcpu.domain().id()));
                self.doms[at].destroying = true;
                self.destroy_piece(at);
            }
            6..=12 => self.go_on_destroying(),
            13 if !dying => {
                self.doms[at].pauses += 1;
                self.hv.pause_domain(vcpu.domain());
            }
            14..=16 if self.doms[at].pauses != 0 => {
                self.doms[at].pauses -= 1;
                self.hv.unpause_domain(vcpu.domain());
            }
            17 if !dying => {
                self.doms[at].vcpu_pauses[index] += 1;
                self.hv.pause_vcpu(&vcpu);
            }
            18..=20 if self.doms[at].vcpu_pauses[index] != 0 => {
                self.doms[at].vcpu_pauses[index] -= 1;
                self.hv.unpause_vcpu(&vcpu);
            }
            21 | 22 => self.move_about(&vcpu),
            23 | 24 if !dying => self.set_some_timer(&vcpu),
            25 => self.hv.wake(&vcpu),
            26 => self.change_ballast(),
            27 => self.change_quota(at),
            28 => {
                vcpu.arch.set_interrupt(true);
                self.hv.notify(&vcpu);
            }
            29 | 30 if self.doms[at].domain.life.state() == LifeState::Shutdown => {
                self.note(|| format!("{} is resumed", vcpu.domain().id()));
                self.hv.resume(vcpu.domain());
            }
            30 => self.hv.send_global_virq(Virq::Debugger),
            _ => {
                self.hv.vcpu_up(&vcpu);
            }
        }
    }

    fn create_some(&mut self) {
        let id = self.some_id().0;
        self.create(id);
    }

    /// Makes a domain and starts it, unless its number is taken or something runs out.
    pub fn create(&mut self, id: u16) {
        let vcpus = 1 + self.random.below(4) as u16;
        let pv = match id {
            5 | 6 => true,
            7 => false,
            _ => self.random.once_in(4),
        };
        let config = DomainConfig {
            id: DomId(id),
            vcpus,
            privileged: id == 0,
            max_frames: 200 + self.random.below(3) * 300,
            direct_map: id == 7,
            kind: match pv {
                true => GuestKind::Paravirtual,
                false => GuestKind::Translated,
            },
        };
        let archs = (0..vcpus).map(|_| SimVcpu::default()).collect();
        let taken = self.hv.domains.get(config.id).is_some();
        let made = self
            .hv
            .create_domain(config, SimDomain::default(), archs, |_| {
                Ok(match pv {
                    true => self.sim.new_linear(),
                    false => self.sim.new_p2m(),
                })
            });
        let Ok(domain) = made else {
            return;
        };
        assert!(!taken, "two domains with number {id}");
        if pv {
            self.sim.keep_page_tables(domain.id());
        }
        self.note(|| format!("d{id} is made with {vcpus} vCPUs"));
        self.counts.created += 1;
        self.ever.push(Arc::downgrade(&domain));
        let frames = 16 + self.random.below(40);
        let base = self.fill(&domain, frames);
        let polite = base.is_some() && !self.random.once_in(3);
        self.doms.push(Dom {
            domain: domain.clone(),
            base: base.unwrap_or(BASE),
            polite: polite && self.register_infos(&domain, base.unwrap_or(BASE)),
            tables: Vec::new(),
            fifo: None,
            pauses: 0,
            vcpu_pauses: vec![0; vcpus.into()],
            guests: (0..vcpus).map(|_| GuestModel::default()).collect(),
            destroying: base.is_none(),
            taken_apart: false,
        });
        let at = self.doms.len() - 1;
        if self.doms[at].polite && self.random.once_in(2) {
            self.enter_fifo(at);
        }
        if base.is_some() {
            self.hv.domain_built(&domain);
            for vcpu in VcpuRef::all(&domain) {
                if vcpu.id.0 == 0 || !self.random.once_in(3) {
                    self.hv.vcpu_up(&vcpu);
                }
            }
        }
    }

    /// Gives a new domain memory; its first guest frame.
    fn fill(&mut self, domain: &DomainRef<Sim>, frames: u64) -> Option<u64> {
        let tables = self.hv.tables(domain);
        if domain.config.direct_map {
            let (bank, size) = BANKS[0];
            let first = Mfn(bank.0 + self.random.below(size - frames));
            self.hv.allocate_for_at(domain, first, frames).ok()?;
            let gfn = Gfn(first.0);
            let mapped = domain.p2m.map(gfn, first, frames, P2mType::RamRw, &tables);
            return mapped.ok().map(|()| gfn.0);
        }
        for gfn in (BASE..BASE + frames).map(Gfn) {
            let mfn = self.hv.allocate_for(domain, 0, Place::ANY).ok()?;
            if domain.is_pv() {
                self.sim.set_machine_to_phys(mfn, Some(gfn));
                if !map_own(&self.hv, domain, gfn, (mfn, P2mType::RamRw)) {
                    return None;
                }
                continue;
            }
            domain.p2m.map(gfn, mfn, 1, P2mType::RamRw, &tables).ok()?;
        }
        // Some of its memory can only be read.
        if self.random.once_in(2) {
            let gfn = Gfn(BASE + DATA + self.random.below(10));
            let entry = domain.p2m.lookup(gfn)?;
            if domain.is_pv() {
                map_own(&self.hv, domain, gfn, (entry.mfn, P2mType::RamRo));
                return Some(BASE);
            }
            domain
                .p2m
                .map(gfn, entry.mfn, 1, P2mType::RamRo, &tables)
                .ok()?;
        }
        Some(BASE)
    }

    /// Gives every vCPU its `vcpu_info`, so that all events can be delivered.
    fn register_infos(&self, domain: &DomainRef<Sim>, base: u64) -> bool {
        VcpuRef::all(domain).all(|vcpu| {
            let offset = u32::from(vcpu.id.0) * 64;
            let frame = Gfn(frame_of(domain, base + INFO));
            self.hv.register_vcpu_info(&vcpu, frame, offset).is_ok()
        })
    }

    fn destroy_piece(&mut self, at: usize) {
        let domain = self.doms[at].domain.clone();
        let destroyed = self.hv.destroy(&domain);
        self.drop_page_tables(at);
        if destroyed == Destroyed::Yes && !self.doms[at].taken_apart {
            self.note(|| format!("{} is taken apart", domain.id()));
            self.doms[at].taken_apart = true;
            self.counts.destroyed += 1;
        }
    }

    fn go_on_destroying(&mut self) {
        let dying: Vec<_> = (0..self.doms.len())
            .filter(|at| self.doms[*at].destroying)
            .collect();
        if let Some(at) = self.random.pick(&dying).copied() {
            self.destroy_piece(at);
        }
    }

    fn move_about(&mut self, vcpu: &VcpuRef<Sim>) {
        let some = |m: &mut Self| {
            let mut mask = CpuMask::EMPTY;
            for _ in 0..3 {
                mask.insert(CpuId(m.random.below(u64::from(CPUS) + 1) as u16));
            }
            mask
        };
        let affinity = Affinity {
            hard: some(self),
            soft: some(self),
        };
        self.note(|| format!("{}v{} gets {affinity:x?}", vcpu.domain().id(), vcpu.id.0));
        let _ = self.hv.set_affinity(vcpu, &affinity);
    }

    fn set_some_timer(&mut self, vcpu: &VcpuRef<Sim>) {
        let which = match self.random.below(3) {
            0 => VcpuTimer::Arch(ArchTimer::A),
            1 => VcpuTimer::Arch(ArchTimer::B),
            _ => VcpuTimer::Singleshot,
        };
        if self.random.once_in(3) {
            self.hv.cancel_timer(vcpu, which);
            return;
        }
        let deadline = self.hv.hal.now().plus(Nanos(self.random.below(20_000_000)));
        self.hv.set_timer(vcpu, which, deadline);
    }

    /// Makes memory scarce for a while: only a few frames are left, or there is plenty again.
    fn change_ballast(&mut self) {
        if !self.random.once_in(3) {
            self.release_ballast();
            return;
        }
        let keep = self.random.below(12);
        while self.hv.memory.free_frames() > keep {
            let most = (self.hv.memory.free_frames() - keep).min(1 << MAX_ORDER);
            match self.hv.memory.allocate_largest(most, Place::ANY) {
                Some(block) => self.ballast.push(block),
                None => break,
            }
        }
        self.note(|| format!("{keep} frames are left"));
    }

    pub fn release_ballast(&mut self) {
        for (mfn, order) in std::mem::take(&mut self.ballast) {
            self.hv.memory.free(mfn, order);
        }
    }

    /// A domain may have little more than it has, or much.
    fn change_quota(&mut self, at: usize) {
        let account = &self.doms[at].domain.memory;
        let spare = match self.random.below(3) {
            0 => self.random.below(16),
            _ => 1000,
        };
        account
            .hypervisor_max
            .store(account.hypervisor.load(SeqCst) + spare, SeqCst);
        account
            .max
            .store(account.owned.load(SeqCst) + spare, SeqCst);
    }

    /// Nothing new is begun: guests end their calls, take their events and block, until all of them do.
    pub fn drain(&mut self) {
        for dom in &mut self.doms {
            if dom.destroying {
                continue;
            }
            for _ in 0..std::mem::take(&mut dom.pauses) {
                self.hv.unpause_domain(&dom.domain);
            }
            for vcpu in VcpuRef::all(&dom.domain) {
                let pauses = &mut dom.vcpu_pauses[usize::from(vcpu.id.0)];
                for _ in 0..std::mem::take(pauses) {
                    self.hv.unpause_vcpu(&vcpu);
                }
                let all = Affinity {
                    hard: CpuMask::ALL,
                    soft: CpuMask::ALL,
                };
                self.hv.set_affinity(&vcpu, &all).expect("CPUs are online");
            }
        }
        for _ in 0..5000 {
            self.settle_all();
            let mut quiet = true;
            for cpu in (0..CPUS).map(CpuId) {
                let Some(current) = self.cpus[cpu.index()].current.clone() else {
                    continue;
                };
                quiet = false;
                self.on(cpu, |m| m.finish(&current));
                self.settle(cpu);
            }
            self.bury();
            self.check();
            if quiet {
                return;
            }
            self.pass(Nanos(100_000));
        }
        panic!("the guests never come to rest");
    }

    fn finish(&mut self, vcpu: &VcpuRef<Sim>) {
        self.take_interrupts(vcpu);
        while self.is_among_queues(vcpu) {
            self.take_interrupts(vcpu);
        }
        let again = self
            .find(vcpu)
            .and_then(|(at, index)| self.doms[at].guests[index].again.take());
        match again {
            Some((nr, args)) => drop(self.issue(vcpu, nr, args)),
            None => self.hv.block(vcpu),
        }
    }

    /// Destroys every domain, in pieces, all at the same time.
    pub fn destroy_all(&mut self) {
        for _ in 0..100_000 {
            if self.doms.is_empty() {
                return;
            }
            for at in 0..self.doms.len() {
                if self.random.once_in(2) {
                    self.sim.cpu_record(CpuId(0)).interrupt_after(1);
                }
                self.doms[at].destroying = true;
                self.on(CpuId(0), |m| m.destroy_piece(at));
                self.sim.cpu_record(CpuId(0)).clear_interrupt();
                self.settle_all();
            }
            self.bury();
        }
        panic!("the destruction does not end");
    }
}
