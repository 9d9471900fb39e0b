//! On which CPU a vCPU waits.

use core::sync::atomic::Ordering::Relaxed;

use xenolith_hal::{CpuId, Hal, Nanos};

use super::{Scheduler, policy::SLICE};
use crate::VcpuRef;

/// A vCPU whose slice is over moves to an equally loaded CPU when the vCPU that runs there had this much more CPU time.
/// Otherwise five vCPUs on four CPUs would leave two of them with half a CPU each for ever.
const UNFAIR: u64 = 2 * SLICE.0;

impl<H: Hal> Scheduler<H> {
    /// Where a vCPU that last ran on `last` goes: there if that CPU is idle, else to an idle CPU (a preferred one first), else
    /// to `last` if the load allows, else to the least loaded. An idle CPU that is chosen is no longer marked idle.
    pub(super) fn placement(&self, vcpu: &VcpuRef<H>, last: CpuId) -> CpuId {
        let here = self.cpu(last).filter(|_| vcpu.sched.hard.contains(last));
        if !self.idle.is_empty() {
            if here.is_some() && self.idle.remove(last) {
                return last;
            }
            if let Some(idle) = self.claim_idle(vcpu) {
                return idle;
            }
        }
        if let Some(cpu) = here
            && cpu.waiting.load(Relaxed) == 0
        {
            return last;
        }
        self.least_loaded(vcpu, last)
    }

    /// Takes a CPU out of the idle set on which the vCPU may run.
    pub(super) fn claim_idle(&self, vcpu: &VcpuRef<H>) -> Option<CpuId> {
        if self.idle.is_empty() {
            return None;
        }
        let idle = self.idle.load().and(&vcpu.sched.hard.load());
        let preferred = idle.and(&vcpu.sched.soft.load());
        preferred
            .iter()
            .chain(idle.iter())
            .find(|cpu| self.idle.remove(*cpu))
    }

    fn least_loaded(&self, vcpu: &VcpuRef<H>, last: CpuId) -> CpuId {
        let allowed = self.online.load().and(&vcpu.sched.hard.load());
        let preferred = allowed.and(&vcpu.sched.soft.load());
        let from = if preferred.is_empty() {
            &allowed
        } else {
            &preferred
        };
        let mut best = (u32::MAX, last);
        for id in from.iter() {
            let Some(cpu) = self.cpu(id) else { continue };
            // Of equals, the one whose caches may still know the vCPU.
            let load = 2 * self.load(id, cpu) + u32::from(id != last);
            if load < best.0 {
                best = (load, id);
            }
        }
        best.1
    }

    /// Where a vCPU whose slice is over had better wait than in its own CPU's queue, if anywhere.
    pub(super) fn less_loaded(&self, vcpu: &VcpuRef<H>, own: CpuId, now: Nanos) -> Option<CpuId> {
        if let Some(idle) = self.claim_idle(vcpu) {
            return Some(idle);
        }
        let own_load = self.load(own, self.cpu(own)?);
        let allowed = self.online.load().and(&vcpu.sched.hard.load());
        let mut best = (own_load, vcpu.sched.vruntime().saturating_add(UNFAIR), None);
        for id in allowed.iter().filter(|id| *id != own) {
            let Some(cpu) = self.cpu(id) else { continue };
            let load = self.load(id, cpu);
            let running = cpu.lead.load(Relaxed).wrapping_add(now.0);
            if load < best.0 || (load == best.0 && running > best.1) {
                best = (load, running, Some(id));
            }
        }
        best.2
    }
}
