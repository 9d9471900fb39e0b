//! The switch from one vCPU to the next.

use core::sync::atomic::{
    Ordering::{Relaxed, SeqCst},
    fence,
};

use xenolith_hal::{CpuId, Hal, Nanos, sync::MutexGuard};

use super::{
    Cpu, Entering, Place, Policy, RunQueue, RunstateKind, Scheduler, VcpuSched, Work, flag,
    handoff::{self, Flags, Words},
    policy::{SLICE, Turn, Verdict},
};
use crate::{Domain, Hypervisor, VcpuRef};

/// What a decision changed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Change {
    /// Nothing.
    Same,
    /// Another vCPU runs, or none.
    Switched,
}

impl Flags for VcpuSched {
    #[inline]
    fn set(&self, flags: u32) -> u32 {
        Self::set(self, flags)
    }
    #[inline]
    fn clear(&self, flags: u32) -> u32 {
        Self::clear(self, flags)
    }
    #[inline]
    fn flags(&self) -> u32 {
        Self::flags(self)
    }
    #[inline]
    fn fence(&self) {
        fence(SeqCst);
    }
}

/// A vCPU that was looked up in its domain, once for several steps.
pub(super) struct Found<'a, H: Hal> {
    domain: &'a Domain<H>,
    sched: &'a VcpuSched,
}

impl<H: Hal> Flags for Found<'_, H> {
    #[inline]
    fn set(&self, flags: u32) -> u32 {
        self.sched.set(flags)
    }
    #[inline]
    fn clear(&self, flags: u32) -> u32 {
        self.sched.clear(flags)
    }
    #[inline]
    fn flags(&self) -> u32 {
        self.sched.flags()
    }
    #[inline]
    fn fence(&self) {
        fence(SeqCst);
    }
}

impl<H: Hal> Words for Found<'_, H> {
    #[inline]
    fn runnable(&self) -> bool {
        self.sched.flags() == 0
            && self.sched.pause_count() == 0
            && self.domain.pause_count.load(SeqCst) == 0
    }
    #[inline]
    fn place(&self) -> Place {
        self.sched.place()
    }
    #[inline]
    fn move_to(&self, place: Place) {
        self.sched.move_to(place);
    }
    #[inline]
    fn claim(&self, seen: Place, to: Place) -> bool {
        self.sched.claim(seen, to)
    }
}

impl<H: Hal> VcpuRef<H> {
    /// What the scheduler knows of it.
    #[inline]
    pub(super) fn found(&self) -> Found<'_, H> {
        Found {
            domain: self.domain(),
            sched: &self.sched,
        }
    }

    /// Whether nothing keeps it from running.
    #[inline]
    pub(crate) fn runnable(&self) -> bool {
        self.found().runnable()
    }
}

impl VcpuSched {
    /// What its vCPU does while it does not run.
    pub(super) fn parked_as(&self) -> RunstateKind {
        if self.flags() & flag::WAITING != 0 {
            RunstateKind::Blocked
        } else {
            RunstateKind::Offline
        }
    }
}

impl<H: Hal> Hypervisor<H> {
    /// Decides who runs now on `cpu`, which executes this call. The answer may be the same vCPU as before; `None`: idle.
    /// When it is another one (or none), the caller stores the registers of the one before and then calls
    /// [`Self::context_saved`], before it calls this again.
    #[inline]
    pub fn schedule(&self, cpu: CpuId) -> Option<VcpuRef<H>> {
        let slot = self.sched.cpu(cpu)?;
        let (chosen, change) = self.choose(cpu, slot);
        if change == Change::Switched
            && let Some(next) = &chosen
        {
            self.update_runstate_area(next);
        }
        chosen
    }

    fn choose(&self, cpu: CpuId, slot: &Cpu<H>) -> (Option<VcpuRef<H>>, Change) {
        let taken = Work::RESCHEDULE.union(Work::YIELD).bits();
        // This CPU alone says that its vCPU yields, so nothing is lost between the two steps.
        let yields = slot.work.load(Relaxed) & Work::YIELD.bits() != 0;
        slot.work.fetch_and(!taken, SeqCst);
        let now = self.hal.now();
        let mut queue = slot.queue.lock();
        debug_assert!(queue.leaving.is_none(), "context_saved was not called");

        let mut stays = false;
        if let Some(current) = &queue.current {
            let found = current.found();
            stays = found.runnable() && found.sched.hard.contains(cpu);
            if stays {
                let turn = Turn {
                    vruntime: found.sched.vruntime_at(now.0),
                    ran: now.since(queue.turn_start),
                    yields,
                };
                if let Verdict::Keep(until) = queue.waiting.verdict(turn, now) {
                    let current = current.clone();
                    if turn.ran >= SLICE {
                        queue.turn_start = now;
                    }
                    self.arm_slice(cpu, until);
                    return (Some(current), Change::Same);
                }
                queue.slice_over = turn.ran >= SLICE;
            }
        }

        let (mut queue, next) = self.take_next(cpu, slot, queue);
        if next.is_none() && stays {
            // All that waited were stopped meanwhile.
            return (queue.current.clone(), Change::Same);
        }
        let was_idle = queue.current.is_none();
        if let Some(current) = queue.current.take() {
            leave(&current.sched, stays, cpu, now);
            let why = match yields {
                true => Entering::Yielded,
                false => Entering::Preempted,
            };
            queue.leaving = Some((current, why));
        }
        if let Some(next) = next {
            if was_idle {
                self.sched.idle.remove(cpu);
            }
            let next = self.run(cpu, slot, &mut queue, next, now);
            return (Some(next), Change::Switched);
        }
        drop(queue);
        (self.steal_or_idle(cpu, slot, now), Change::Switched)
    }

    /// Makes `next` the current vCPU.
    #[inline(always)]
    fn run(
        &self,
        cpu: CpuId,
        slot: &Cpu<H>,
        queue: &mut MutexGuard<'_, RunQueue<H>>,
        next: VcpuRef<H>,
        now: Nanos,
    ) -> VcpuRef<H> {
        let sched = &next.sched;
        sched.runstate.change(RunstateKind::Running, now);
        sched.start(now.0);
        slot.lead
            .store(sched.vruntime().wrapping_sub(now.0), Relaxed);
        queue.turn_start = now;
        if queue.waiting.len() != 0 || queue.leaving.as_ref().is_some_and(|(v, _)| v.runnable()) {
            self.arm_slice(cpu, Some(now.plus(SLICE)));
        }
        queue.current = Some(next.clone());
        // The architecture looks for the vCPU's pending interrupts next: who made one pending either saw `Running` and
        // kicks this CPU, or made it pending early enough to be seen.
        fence(SeqCst);
        next
    }

    /// Takes the next vCPU that may really run here out of the queue; it is `Running` then. The lock is let go for moments.
    #[inline(always)]
    fn take_next<'a>(
        &self,
        cpu: CpuId,
        slot: &'a Cpu<H>,
        mut queue: MutexGuard<'a, RunQueue<H>>,
    ) -> (MutexGuard<'a, RunQueue<H>>, Option<VcpuRef<H>>) {
        loop {
            let Some(vcpu) = queue.waiting.next() else {
                return (queue, None);
            };
            slot.waiting.store(queue.waiting.len() as u32, SeqCst);
            if self.take(&vcpu, cpu) {
                return (queue, Some(vcpu));
            }
            drop(queue);
            self.park_and_let_go(vcpu, cpu);
            queue = slot.queue.lock();
        }
    }

    /// Parks a vCPU with no lock held: it may be the last reference on a domain.
    #[cold]
    #[inline(never)]
    fn park_and_let_go(&self, vcpu: VcpuRef<H>, cpu: CpuId) {
        self.park(&vcpu, cpu);
    }

    /// A vCPU was taken out of a queue to run on `cpu`. If it may not, the caller parks it when it holds no lock; until then
    /// it stays `Running` there, so that nobody else claims it.
    #[inline(always)]
    fn take(&self, vcpu: &VcpuRef<H>, cpu: CpuId) -> bool {
        let found = vcpu.found();
        found.move_to(Place::Running(cpu));
        if found.runnable() && found.sched.hard.contains(cpu) {
            return true;
        }
        self.note_parked(found.sched);
        false
    }

    #[cold]
    #[inline(never)]
    fn note_parked(&self, sched: &VcpuSched) {
        sched.runstate.change(sched.parked_as(), self.hal.now());
    }

    fn steal_or_idle(&self, cpu: CpuId, slot: &Cpu<H>, now: Nanos) -> Option<VcpuRef<H>> {
        let mut stolen = self.steal(cpu);
        if stolen.is_none() {
            self.sched.idle.insert(cpu);
            // Who queued a vCPU before it could see this CPU idle relies on this second look.
            stolen = self.steal(cpu);
        }
        let stolen = stolen?;
        self.sched.idle.remove(cpu);
        let mut queue = slot.queue.lock();
        Some(self.run(cpu, slot, &mut queue, stolen, now))
    }

    /// Takes a waiting vCPU from the CPU with most of them.
    fn steal(&self, cpu: CpuId) -> Option<VcpuRef<H>> {
        let mut tried = xenolith_hal::CpuMask::only(cpu);
        loop {
            let victim = self.sched.busiest(&tried)?;
            tried.insert(victim);
            let slot = self.sched.cpu(victim)?;
            loop {
                let mut queue = slot.queue.lock();
                let Some(vcpu) = queue.waiting.steal(cpu) else {
                    break;
                };
                slot.waiting.store(queue.waiting.len() as u32, SeqCst);
                drop(queue);
                if self.take(&vcpu, cpu) {
                    return Some(vcpu);
                }
                self.park(&vcpu, cpu);
            }
        }
    }

    /// The registers of the vCPU that this CPU ran before are stored: from now on any CPU may run it.
    pub fn context_saved(&self, vcpu: &VcpuRef<H>) {
        let cpu = self.hal.cpu();
        let Some(slot) = self.sched.cpu(cpu) else {
            return;
        };
        self.update_runstate_area(vcpu);
        let mut queue = slot.queue.lock();
        let Some((vcpu, why)) = queue.leaving.take_if(|(left, _)| left == vcpu) else {
            return;
        };
        let found = vcpu.found();
        if !found.runnable() {
            drop(queue);
            if let Some(last) = handoff::park(&found, cpu) {
                self.queue_claimed(&vcpu, last);
            }
            return;
        }
        let now = self.hal.now();
        found.sched.runstate.change(RunstateKind::Runnable, now);
        let slice_over = core::mem::take(&mut queue.slice_over);
        let target = if !found.sched.hard.contains(cpu) {
            self.sched.placement(&vcpu, cpu)
        } else if slice_over {
            self.sched.less_loaded(&vcpu, cpu, now).unwrap_or(cpu)
        } else {
            cpu
        };
        found.move_to(Place::Queued(target));
        if target == cpu {
            self.enqueue(cpu, slot, queue, vcpu, (why, now));
        } else {
            drop(queue);
            self.push(target, vcpu, (why, now));
        }
    }
}

/// The current vCPU is no longer current; its registers are still loaded.
#[inline(always)]
fn leave(sched: &VcpuSched, runnable: bool, cpu: CpuId, now: Nanos) {
    sched.charge(now.0);
    let kind = if runnable {
        RunstateKind::Runnable
    } else {
        sched.parked_as()
    };
    sched.runstate.change(kind, now);
    sched.move_to(Place::Leaving(cpu));
}

impl<H: Hal> Scheduler<H> {
    fn busiest(&self, except: &xenolith_hal::CpuMask) -> Option<CpuId> {
        let mut best = None;
        for id in self.online.load().iter() {
            let Some(cpu) = self.cpu(id) else { continue };
            let waiting = cpu.waiting.load(SeqCst);
            if waiting != 0 && !except.contains(id) && best.is_none_or(|(most, _)| waiting > most) {
                best = Some((waiting, id));
            }
        }
        best.map(|(_, id)| id)
    }
}
