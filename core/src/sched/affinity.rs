//! On which CPUs a vCPU may and would rather run; and the domains that queues have room for.

use core::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};

use xenolith_hal::{CpuMask, Hal, NoMemory};

use super::{Place, Policy};
use crate::{DomainRef, Errno, Hypervisor, VcpuRef};

/// What the scheduler knows of a domain.
pub struct DomainSched {
    /// How many of its vCPUs poll ports.
    pub(crate) pollers: AtomicU32,
    /// Which watchdogs are in use, one bit each.
    pub(crate) watchdogs: AtomicU32,
    /// The reason that stands when the domain shuts down, or [`NO_REASON`].
    pub(crate) latched_reason: AtomicU32,
    /// Whether the guest asked for the update mark in its runstate areas (`VMASST_TYPE_runstate_update_flag`).
    pub runstate_update_flag: AtomicBool,
}

/// In `latched_reason`: none was given in advance.
pub(crate) const NO_REASON: u32 = u32::MAX;

impl Default for DomainSched {
    fn default() -> Self {
        Self {
            pollers: AtomicU32::new(0),
            watchdogs: AtomicU32::new(0),
            latched_reason: AtomicU32::new(NO_REASON),
            runstate_update_flag: AtomicBool::new(false),
        }
    }
}

/// Which CPUs a vCPU runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Affinity {
    /// Only on these.
    pub hard: CpuMask,
    /// Rather on these, of the others only when these are busy.
    pub soft: CpuMask,
}

impl<H: Hal> Hypervisor<H> {
    /// Makes room for a new domain's vCPUs in every queue and timer heap, so that neither waking one nor setting a timer
    /// ever allocates. Undone by [`Self::dismiss_domain`].
    pub fn admit_domain(&self, domain: &DomainRef<H>) -> Result<(), NoMemory> {
        let vcpus = domain.vcpus.len() as u32;
        self.timers.admit(vcpus)?;
        let total = self.sched.admitted.fetch_add(vcpus, SeqCst) + vcpus;
        for cpu in self.sched.online.load().iter() {
            let Some(slot) = self.sched.cpu(cpu) else {
                continue;
            };
            let reserved = slot.queue.lock().waiting.reserve(total as usize);
            if let Err(error) = reserved {
                self.sched.admitted.fetch_sub(vcpus, SeqCst);
                self.timers.dismiss(vcpus);
                return Err(error);
            }
        }
        Ok(())
    }

    /// The domain ends: takes its vCPUs down and out of the queues, and stops their timers. They may still be on their CPUs for a
    /// moment ([`Self::is_domain_running`]). Called once.
    pub fn dismiss_domain(&self, domain: &DomainRef<H>) {
        for vcpu in VcpuRef::all(domain) {
            self.vcpu_down(&vcpu);
            self.cancel_timers(&vcpu);
        }
        let vcpus = domain.vcpus.len() as u32;
        self.sched.admitted.fetch_sub(vcpus, SeqCst);
        self.timers.dismiss(vcpus);
    }

    /// A vCPU's affinity.
    pub fn affinity(&self, vcpu: &VcpuRef<H>) -> Affinity {
        Affinity {
            hard: vcpu.sched.hard.load(),
            soft: vcpu.sched.soft.load(),
        }
    }

    /// Sets a vCPU's affinity. `EINVAL` when no CPU of the hard affinity is online: CPUs do not go away, so a vCPU always has
    /// one to run on. The soft affinity is only a wish. A vCPU on a CPU that it may no longer use leaves it soon.
    pub fn set_affinity(&self, vcpu: &VcpuRef<H>, affinity: &Affinity) -> Result<(), Errno> {
        if affinity.hard.and(&self.sched.online.load()).is_empty() {
            return Err(Errno::EINVAL);
        }
        vcpu.sched.soft.store(&affinity.soft);
        vcpu.sched.hard.store(&affinity.hard);
        match vcpu.sched.place() {
            Place::Queued(cpu) if !affinity.hard.contains(cpu) => self.requeue(vcpu, cpu),
            Place::Running(cpu) if !affinity.hard.contains(cpu) => self.reschedule(cpu),
            _ => {}
        }
        Ok(())
    }
}
