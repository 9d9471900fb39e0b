//! What the debug keys show of the scheduler.

use core::fmt::{self, Write};

use xenolith_hal::{CpuId, Hal};

use super::{Place, Policy, flag};
use crate::{Hypervisor, VcpuRef};

struct Name<'a, H: Hal>(&'a VcpuRef<H>);

impl<H: Hal> fmt::Display for Name<'_, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "d{}v{}", self.0.domain().id().0, self.0.id.0)
    }
}

/// Where a vCPU is, and why.
#[derive(Clone, Copy, Debug)]
pub struct VcpuFacts {
    /// Where it is.
    pub place: Place,
    /// Whether nothing keeps it from running.
    pub runnable: bool,
    /// Whether it was not started, or taken down.
    pub down: bool,
    /// Whether it waits for an interrupt (polling included).
    pub waits: bool,
    /// Whether it waits for ports.
    pub polls: bool,
}

impl super::DomainSched {
    /// How many vCPUs of the domain are noted to poll ports.
    pub fn pollers(&self) -> u32 {
        self.pollers.load(core::sync::atomic::Ordering::SeqCst)
    }
}

impl<H: Hal> Hypervisor<H> {
    /// Where a vCPU is, and why.
    pub fn vcpu_facts(&self, vcpu: &VcpuRef<H>) -> VcpuFacts {
        let flags = vcpu.sched.flags();
        VcpuFacts {
            place: vcpu.sched.place(),
            runnable: vcpu.runnable(),
            down: flags & flag::DOWN != 0,
            waits: flags & flag::WAITING != 0,
            polls: flags & flag::POLLING != 0,
        }
    }

    /// Calls `f` for each vCPU that waits in a CPU's queue, under its lock.
    pub fn for_each_waiting(&self, cpu: CpuId, mut f: impl FnMut(&VcpuRef<H>)) {
        if let Some(slot) = self.sched.cpu(cpu) {
            slot.queue.lock().waiting.for_each(&mut f);
        }
    }

    /// Key `r`: what runs and what waits on each CPU.
    pub fn dump_run_queues(&self, out: &mut dyn Write) -> fmt::Result {
        let now = self.hal.now();
        writeln!(out, "run queues at {} ns", now.0)?;
        for cpu in self.sched.online_cpus().iter() {
            self.dump_cpu(cpu, out)?;
        }
        Ok(())
    }

    fn dump_cpu(&self, cpu: CpuId, out: &mut dyn Write) -> fmt::Result {
        let Some(slot) = self.sched.cpu(cpu) else {
            return Ok(());
        };
        let work = slot.work.load(core::sync::atomic::Ordering::Relaxed);
        let (timers, next) = self.timers.summary(cpu);
        write!(out, "cpu {:>3}: work {work:#x}, timers {timers}", cpu.0)?;
        if let Some(next) = next {
            write!(out, " (next {} ns)", next.0)?;
        }
        // Printing is slow, the lock is short: names are copied out in portions.
        let current = self.current(cpu);
        match &current {
            Some(vcpu) => writeln!(out, ", runs {}", Name(vcpu))?,
            None => writeln!(out, ", idle")?,
        }
        let mut waiting = arrayvec::ArrayVec::<VcpuRef<H>, 32>::new();
        let mut more = 0;
        slot.queue.lock().waiting.for_each(&mut |vcpu| {
            if waiting.try_push(vcpu.clone()).is_err() {
                more += 1;
            }
        });
        for vcpu in &waiting {
            writeln!(
                out,
                "    waits {} vruntime {}",
                Name(vcpu),
                vcpu.sched.vruntime()
            )?;
        }
        if more != 0 {
            writeln!(out, "    and {more} more")?;
        }
        Ok(())
    }

    /// A part of key `q`: one line on a vCPU.
    pub fn dump_vcpu(&self, vcpu: &VcpuRef<H>, out: &mut dyn Write) -> fmt::Result {
        let times = self.runstate(vcpu);
        let (place, cpu) = match vcpu.sched.place() {
            Place::Off(cpu) => ("off", cpu),
            Place::Queued(cpu) => ("queued", cpu),
            Place::Running(cpu) => ("running", cpu),
            Place::Leaving(cpu) => ("leaving", cpu),
        };
        write!(out, "    {}: {place} cpu {}", Name(vcpu), cpu.0)?;
        let flags = vcpu.sched.flags();
        for (bit, name) in [
            (flag::DOWN, "down"),
            (flag::POLLING, "polling"),
            (flag::BLOCKED, "blocked"),
        ] {
            if flags & bit != 0 {
                write!(out, " {name}")?;
            }
        }
        let [running, runnable, blocked, offline] = times.time.map(|time| time.0 / 1_000_000);
        writeln!(
            out,
            " pauses {} ms running {running} runnable {runnable} blocked {blocked} offline {offline}",
            vcpu.sched.pause_count(),
        )
    }
}
