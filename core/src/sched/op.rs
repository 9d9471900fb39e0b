//! `sched_op`: a guest gives up its CPU, waits, or ends (`public/sched.h`).

use core::sync::atomic::Ordering::SeqCst;

use arrayvec::ArrayVec;
use xenolith_abi::{Port, sched as wire, sched::SchedOp};
use xenolith_hal::{CpuId, CpuMask, GuestVirt, Hal, MAX_CPUS, Nanos};

use super::{affinity::NO_REASON, flag};
use crate::{
    DomainRef, Errno, Hypervisor, VcpuId, VcpuRef,
    guest::Caller,
    hypercall::Outcome,
    timer::{VcpuTimer, Watchdog},
};

/// The most ports that one call polls, as in Xen.
const MAX_POLLED: usize = 128;

/// Serves `sched_op`. What ends the caller's run (yield, block, poll, shutdown) takes effect at the next
/// [`Hypervisor::schedule`], which is asked for through the CPU's work word; the result is what the guest sees when it goes on.
pub fn sched_op<H: Hal>(caller: Caller<'_, H>, cmd: u32, arg: GuestVirt) -> Outcome {
    let result = match SchedOp::try_from(cmd) {
        Err(errno) => Err(errno),
        Ok(SchedOp::Yield) => {
            caller.hv.yield_now(caller.vcpu);
            Ok(0)
        }
        Ok(SchedOp::Block) => {
            enable_upcalls(caller);
            caller.hv.block(caller.vcpu);
            Ok(0)
        }
        Ok(SchedOp::Shutdown) => shutdown(caller, arg),
        Ok(SchedOp::Poll) => poll(caller, arg),
        Ok(SchedOp::RemoteShutdown) => remote_shutdown(caller, arg),
        Ok(SchedOp::ShutdownCode) => shutdown_code(caller, arg),
        Ok(SchedOp::Watchdog) => watchdog(caller, arg),
        Ok(SchedOp::PinOverride) => pin_override(caller, arg),
    };
    Outcome::from(result)
}

/// Whoever blocks lets itself be told of events.
fn enable_upcalls<H: Hal>(caller: Caller<'_, H>) {
    if caller.domain().is_pv() {
        return caller.hv.unmask_upcalls(caller.vcpu);
    }
    caller
        .hv
        .hal
        .enable_upcalls(&caller.domain().arch, &caller.vcpu.arch);
}

fn shutdown<H: Hal>(caller: Caller<'_, H>, arg: GuestVirt) -> Result<i64, Errno> {
    let what: wire::Shutdown = caller.read(arg)?;
    caller.hv.end_domain(caller.domain(), what.reason as u8);
    Ok(0)
}

fn remote_shutdown<H: Hal>(caller: Caller<'_, H>, arg: GuestVirt) -> Result<i64, Errno> {
    let what: wire::RemoteShutdown = caller.read(arg)?;
    let target = caller.hv.domains.get(what.domain_id).ok_or(Errno::ESRCH)?;
    if !caller.domain().config.privileged {
        return Err(Errno::EPERM);
    }
    caller.hv.end_domain(&target, what.reason as u8);
    Ok(0)
}

fn shutdown_code<H: Hal>(caller: Caller<'_, H>, arg: GuestVirt) -> Result<i64, Errno> {
    let what: wire::Shutdown = caller.read(arg)?;
    let latched = &caller.domain().sched.latched_reason;
    let reason = u32::from(what.reason as u8);
    // The first one stands.
    let _ = latched.compare_exchange(NO_REASON, reason, SeqCst, SeqCst);
    Ok(0)
}

fn poll<H: Hal>(caller: Caller<'_, H>, arg: GuestVirt) -> Result<i64, Errno> {
    let what: wire::Poll = caller.read(arg)?;
    let count = what.nr_ports as usize;
    if count > MAX_POLLED {
        return Err(Errno::EINVAL);
    }
    let mut ports = ArrayVec::<Port, MAX_POLLED>::new();
    let base = GuestVirt(what.ports.address());
    for index in 0..count {
        ports.push(caller.read_at(base, index as u64)?);
    }
    let timeout = (what.timeout != 0).then_some(Nanos(what.timeout));
    caller.hv.poll(caller.vcpu, &ports, timeout)?;
    Ok(0)
}

impl<H: Hal> Hypervisor<H> {
    /// The current vCPU waits for one of the ports, for an interrupt, or for the timeout. Takes effect at the next
    /// [`Self::schedule`]. `EINVAL` when a port is none of its domain's.
    pub fn poll(
        &self,
        current: &VcpuRef<H>,
        ports: &[Port],
        timeout: Option<Nanos>,
    ) -> Result<(), Errno> {
        self.poll_begins(current, ports);
        // Who makes a port or an interrupt pending does that first and looks for pollers afterwards.
        core::sync::atomic::fence(SeqCst);
        let ready = self.interrupt_deliverable(current)
            || match self.any_pending(current.domain(), ports.iter().copied()) {
                Ok(pending) => pending,
                Err(errno) => {
                    self.wake(current);
                    return Err(errno);
                }
            };
        if ready {
            self.wake(current);
            return Ok(());
        }
        if let Some(deadline) = timeout {
            self.set_timer(current, VcpuTimer::Poll, deadline);
        } else {
            self.cancel_timer(current, VcpuTimer::Poll);
        }
        self.reschedule(self.hal.cpu());
        Ok(())
    }

    fn poll_begins(&self, current: &VcpuRef<H>, ports: &[Port]) {
        let port = match ports {
            [only] => only.0,
            _ => super::state::ANY_PORT,
        };
        current.sched.poll_port.store(port, SeqCst);
        self.note_poller(current.domain());
        if current.sched.set(flag::WAITING) & flag::POLLING != 0 {
            // An earlier call of the same multicall began to poll: the vCPU is noted once.
            self.forget_poller(current.domain());
        }
    }

    fn first_vcpu(&self, domain: &DomainRef<H>) -> Option<VcpuRef<H>> {
        VcpuRef::new(domain, VcpuId(0))
    }

    /// Arms, feeds or stops a watchdog of a domain: see `SCHEDOP_watchdog`.
    pub fn watchdog(&self, domain: &DomainRef<H>, id: u32, seconds: u32) -> Result<i64, Errno> {
        let vcpu = self.first_vcpu(domain).ok_or(Errno::EINVAL)?;
        let deadline = self
            .hal
            .now()
            .plus(Nanos::from_millis(u64::from(seconds) * 1000));
        let inuse = &domain.sched.watchdogs;
        let which = |index: u32| match index {
            0 => Watchdog::First,
            _ => Watchdog::Second,
        };
        if id == 0 {
            for index in 0..2 {
                if inuse.fetch_or(1 << index, SeqCst) & 1 << index == 0 {
                    self.set_timer(&vcpu, VcpuTimer::Watchdog(which(index)), deadline);
                    return Ok(i64::from(index) + 1);
                }
            }
            return Err(Errno::ENOSPC);
        }
        if id > 2 || inuse.load(SeqCst) & 1 << (id - 1) == 0 {
            return Err(Errno::EINVAL);
        }
        let timer = VcpuTimer::Watchdog(which(id - 1));
        if seconds == 0 {
            self.cancel_timer(&vcpu, timer);
            inuse.fetch_and(!(1 << (id - 1)), SeqCst);
        } else {
            self.set_timer(&vcpu, timer, deadline);
        }
        Ok(0)
    }

    /// A watchdog of the domain was not fed in time.
    pub(crate) fn watchdog_expired(&self, vcpu: &VcpuRef<H>) {
        log::warn!("d{}: watchdog expired", vcpu.domain().id().0);
        let reason = wire::ShutdownReason::Watchdog.number();
        self.end_domain(vcpu.domain(), reason as u8);
    }

    /// Shuts a domain down for a reason (`SHUTDOWN_*`), or for the one that it latched before. Does not return when this
    /// ends the machine.
    fn end_domain(&self, domain: &DomainRef<H>, reason: u8) {
        let latched = domain.sched.latched_reason.load(SeqCst);
        self.shutdown_domain(domain, u8::try_from(latched).unwrap_or(reason));
    }

    /// Pins the vCPU to one CPU until it is undone (`None`), over its hard affinity. `EBUSY` when it is pinned already,
    /// `EINVAL` when it is not pinned or the CPU is not online.
    pub fn pin_override(&self, vcpu: &VcpuRef<H>, cpu: Option<CpuId>) -> Result<(), Errno> {
        let mut affinity = self.affinity(vcpu);
        let saved = vcpu.sched.saved_hard.load();
        match cpu {
            Some(_) if !saved.is_empty() => Err(Errno::EBUSY),
            Some(cpu) => {
                let before = affinity.hard;
                affinity.hard = CpuMask::only(cpu);
                self.set_affinity(vcpu, &affinity)?;
                vcpu.sched.saved_hard.store(&before);
                Ok(())
            }
            None if saved.is_empty() => Err(Errno::EINVAL),
            None => {
                affinity.hard = saved;
                vcpu.sched.saved_hard.store(&CpuMask::EMPTY);
                self.set_affinity(vcpu, &affinity)
            }
        }
    }
}

fn watchdog<H: Hal>(caller: Caller<'_, H>, arg: GuestVirt) -> Result<i64, Errno> {
    let what: wire::Watchdog = caller.read(arg)?;
    caller.hv.watchdog(caller.domain(), what.id, what.timeout)
}

fn pin_override<H: Hal>(caller: Caller<'_, H>, arg: GuestVirt) -> Result<i64, Errno> {
    if !caller.domain().config.privileged {
        return Err(Errno::EPERM);
    }
    let what: wire::PinOverride = caller.read(arg)?;
    let cpu = match u16::try_from(what.pcpu) {
        Ok(cpu) if usize::from(cpu) < MAX_CPUS => Some(CpuId(cpu)),
        Ok(_) => return Err(Errno::EINVAL),
        Err(_) if what.pcpu < 0 => None,
        Err(_) => return Err(Errno::EINVAL),
    };
    caller.hv.pin_override(caller.vcpu, cpu)?;
    Ok(0)
}
