//! What makes a vCPU runnable, and what stops it.

use core::sync::atomic::Ordering::{Relaxed, SeqCst};

use xenolith_hal::{CpuId, Hal, Nanos, sync::MutexGuard};

use super::{
    Cpu, Entering, Place, Policy, RunQueue, RunstateKind, Work, flag, handoff,
    policy::{Turn, Verdict},
    state::count_down,
};
use crate::{Domain, DomainRef, Hypervisor, Vcpu, VcpuRef};

impl<H: Hal> Hypervisor<H> {
    /// Ends a vCPU's wait, whatever it waits for. Nothing happens to one that does not wait.
    pub fn wake(&self, vcpu: &VcpuRef<H>) {
        let was = vcpu.sched.clear(flag::WAITING);
        if was & flag::POLLING != 0 {
            self.forget_poller(vcpu.domain());
        }
        if was & flag::WAITING != 0 {
            self.make_runnable(vcpu);
        }
    }

    /// An interrupt was made pending for the vCPU: it is woken if it waits; if it runs on another CPU, that CPU is made to
    /// look. Nothing is done for the current vCPU of this CPU, which looks before it enters its guest.
    pub fn notify(&self, vcpu: &VcpuRef<H>) {
        self.notify_vcpu(vcpu.domain(), vcpu);
    }

    /// As [`Self::notify`], for a vCPU of `domain` that is at hand otherwise: one that runs, as most do that others send
    /// interrupts to, then costs no reference on the domain, a word that all its vCPUs would write.
    #[inline]
    pub fn notify_vcpu(&self, domain: &DomainRef<H>, vcpu: &Vcpu<H>) {
        if handoff::wants_wake(&vcpu.sched) {
            if let Some(vcpu) = VcpuRef::new(domain, vcpu.id) {
                self.wake(&vcpu);
            }
        } else if let Place::Running(cpu) = vcpu.sched.place()
            && cpu != self.hal.cpu()
        {
            self.hal.kick(cpu);
        }
    }

    /// The current vCPU waits for an interrupt; it goes on at once if one is there. Takes effect at the next
    /// [`Self::schedule`], which is asked for.
    pub fn block(&self, current: &VcpuRef<H>) {
        if handoff::begin_block(&current.sched, || self.interrupt_deliverable(current)) {
            self.reschedule(self.hal.cpu());
        }
    }

    /// Whether the vCPU has an interrupt that ends a wait.
    pub fn interrupt_deliverable(&self, vcpu: &VcpuRef<H>) -> bool {
        let upcall = self.upcall_pending(vcpu);
        self.hal
            .has_deliverable_interrupt(&vcpu.domain().arch, &vcpu.arch, upcall)
    }

    /// The current vCPU lets others that wait for this CPU go first.
    #[inline]
    pub fn yield_now(&self, _current: &VcpuRef<H>) {
        if let Some(slot) = self.sched.cpu(self.hal.cpu())
            && slot.waiting.load(Relaxed) != 0
        {
            let work = Work::RESCHEDULE.union(Work::YIELD).bits();
            slot.work.fetch_or(work, SeqCst);
        }
    }

    /// Starts a vCPU that is down; false when it was up already, or its domain ends.
    pub fn vcpu_up(&self, vcpu: &VcpuRef<H>) -> bool {
        if vcpu.sched.clear(flag::DOWN) & flag::DOWN == 0 {
            return false;
        }
        // Who ends the domain says so first and takes its vCPUs down afterwards, so one of both puts this one down again:
        // a vCPU that is still on its CPU then must not start another.
        if vcpu.domain().life.is_dying() {
            self.vcpu_down(vcpu);
            return false;
        }
        self.make_runnable(vcpu);
        true
    }

    /// Takes a vCPU down; false when it was down already. It may still be on its CPU for a moment
    /// ([`Self::is_running_anywhere`]).
    pub fn vcpu_down(&self, vcpu: &VcpuRef<H>) -> bool {
        if vcpu.sched.set(flag::DOWN) & flag::DOWN != 0 {
            return false;
        }
        self.stop(vcpu);
        true
    }

    /// Whether a vCPU was started.
    pub fn vcpu_is_up(&self, vcpu: &VcpuRef<H>) -> bool {
        vcpu.sched.flags() & flag::DOWN == 0
    }

    /// Keeps a vCPU from running until the pauses are undone. It may still be on its CPU for a moment.
    pub fn pause_vcpu(&self, vcpu: &VcpuRef<H>) {
        vcpu.sched.pause();
        self.stop(vcpu);
    }

    /// Undoes one [`Self::pause_vcpu`].
    pub fn unpause_vcpu(&self, vcpu: &VcpuRef<H>) {
        if vcpu.sched.unpause() {
            self.make_runnable(vcpu);
        }
    }

    /// Keeps a domain's vCPUs from running until the pauses are undone. They may still be on their CPUs for a moment.
    pub fn pause_domain(&self, domain: &DomainRef<H>) {
        domain.pause_count.fetch_add(1, SeqCst);
        for vcpu in VcpuRef::all(domain) {
            self.stop(&vcpu);
        }
    }

    /// Undoes one [`Self::pause_domain`].
    pub fn unpause_domain(&self, domain: &DomainRef<H>) {
        if count_down(&domain.pause_count) {
            for vcpu in VcpuRef::all(domain) {
                self.make_runnable(&vcpu);
            }
        }
    }

    /// Whether the vCPU is on a CPU, or its registers are. Who stopped it and needs them stored asks again later; nobody
    /// waits for that inside the hypervisor.
    pub fn is_running_anywhere(&self, vcpu: &VcpuRef<H>) -> bool {
        matches!(vcpu.sched.place(), Place::Running(_) | Place::Leaving(_))
    }

    /// The same for any vCPU of a domain.
    pub fn is_domain_running(&self, domain: &Domain<H>) -> bool {
        domain
            .vcpus
            .iter()
            .any(|vcpu| matches!(vcpu.sched.place(), Place::Running(_) | Place::Leaving(_)))
    }

    /// Asks a CPU to call [`Self::schedule`].
    pub(super) fn reschedule(&self, cpu: CpuId) {
        self.add_work(cpu, Work::RESCHEDULE);
    }

    /// A vCPU became not runnable: takes it off what it holds.
    pub(super) fn stop(&self, vcpu: &VcpuRef<H>) {
        match vcpu.sched.place() {
            Place::Running(cpu) => self.reschedule(cpu),
            Place::Queued(cpu) => self.requeue(vcpu, cpu),
            // An `Off` one is not runnable; a `Leaving` one is looked at when its registers are stored.
            Place::Off(_) | Place::Leaving(_) => {}
        }
    }

    /// Takes a queued vCPU out of the queue, and puts it where it belongs by now, if anywhere.
    pub(super) fn requeue(&self, vcpu: &VcpuRef<H>, cpu: CpuId) {
        let Some(slot) = self.sched.cpu(cpu) else {
            return;
        };
        let mut queue = slot.queue.lock();
        // If it is not there, it is about to be put there, or was taken out: both look at its flags later.
        let Some(vcpu) = queue.waiting.remove(vcpu) else {
            drop(queue);
            if let Place::Running(cpu) = vcpu.sched.place() {
                self.reschedule(cpu);
            }
            return;
        };
        slot.waiting.store(queue.waiting.len() as u32, SeqCst);
        if !vcpu.runnable() {
            let kind = vcpu.sched.parked_as();
            vcpu.sched.runstate.change(kind, self.hal.now());
        }
        drop(queue);
        self.park(&vcpu, cpu);
    }

    /// Parks a vCPU that is the caller's to move, unless it became runnable meanwhile: then it is queued where it belongs.
    pub(super) fn park(&self, vcpu: &VcpuRef<H>, cpu: CpuId) {
        if let Some(last) = handoff::park(&vcpu.found(), cpu) {
            self.queue_claimed(vcpu, last);
        }
    }

    /// Puts a runnable vCPU that is nowhere into a queue. Nothing happens to any other.
    pub(super) fn make_runnable(&self, vcpu: &VcpuRef<H>) {
        if let Some(last) = handoff::claim_runnable(&vcpu.found()) {
            self.queue_claimed(vcpu, last);
        }
    }

    /// Puts a vCPU that was claimed for the CPU where it last was into the best queue. Nobody else moves it meanwhile.
    pub(super) fn queue_claimed(&self, vcpu: &VcpuRef<H>, last: CpuId) {
        let target = self.sched.placement(vcpu, last);
        let now = self.hal.now();
        let sched = &vcpu.sched;
        sched.move_to(Place::Queued(target));
        sched.runstate.change(RunstateKind::Runnable, now);
        self.push(target, vcpu.clone(), (Entering::Woken, now));
    }

    /// Puts a vCPU that the caller has claimed for `target` into its queue. It came to wait at this time.
    #[inline]
    pub(super) fn push(&self, target: CpuId, vcpu: VcpuRef<H>, why: (Entering, Nanos)) {
        let Some(slot) = self.sched.cpu(target) else {
            // No CPU is online yet: the vCPU is found when one is.
            vcpu.sched.move_to(Place::Off(target));
            return;
        };
        let queue = slot.queue.lock();
        self.enqueue(target, slot, queue, vcpu, why);
    }

    #[inline]
    pub(super) fn enqueue(
        &self,
        target: CpuId,
        slot: &Cpu<H>,
        mut queue: MutexGuard<'_, RunQueue<H>>,
        vcpu: VcpuRef<H>,
        (why, now): (Entering, Nanos),
    ) {
        let turn = queue.current.as_ref().map(|current| Turn {
            vruntime: current.sched.vruntime_at(now.0),
            ran: now.since(queue.turn_start),
            yields: false,
        });
        let crowded = turn.is_some() && !self.sched.idle.is_empty();
        let helper = crowded.then(|| vcpu.clone());
        queue
            .waiting
            .enqueue(vcpu, why, turn.map(|turn| turn.vruntime));
        let waiting = queue.waiting.len() as u32;
        slot.waiting.store(waiting, SeqCst);
        let look = match turn {
            None => true,
            Some(turn) => match queue.waiting.verdict(turn, now) {
                Verdict::Switch => true,
                Verdict::Keep(until) => !self.slice_covers(target, until),
            },
        };
        drop(queue);
        if look {
            self.reschedule(target);
        }
        if let Some(vcpu) = helper
            && let Some(idle) = self.sched.claim_idle(&vcpu)
        {
            // It finds the vCPU here and takes it.
            self.reschedule(idle);
        }
    }

    /// Whether the CPU's slice timer is set for `until` or earlier, so that it needs no reminder.
    fn slice_covers(&self, cpu: CpuId, until: Option<Nanos>) -> bool {
        until.is_none_or(|until| self.timers.slice(cpu) <= until)
    }
}
