//! The life of a domain: building, running, shut down, dying, dead.
//!
//! A shut-down domain keeps all it has, for a tool to look at, save or destroy. A dying one gives everything back, in
//! pieces; it keeps its number until its last frame is free, which may be when another domain lets go of a mapping.
//! Transitions only go forward, except that a shut-down domain may be resumed.

use alloc::vec::Vec;
use core::sync::atomic::{
    AtomicBool, AtomicU8, AtomicU32,
    Ordering::{Relaxed, SeqCst},
};

use xenolith_abi::{sched::ShutdownReason, virq::Virq};
use xenolith_hal::{
    Hal, NoMemory, P2m, TableFrames,
    sync::{Mutex, Rank},
};

use super::{Domain, DomainConfig, DomainParts, GuestKind};
use crate::{
    DomainRef, Errno, Hypervisor, Vcpu, VcpuId,
    event::Progress,
    grant::Released,
    memory::{
        DomainMemory, DomainTables, Relinquish, RelinquishStep, room_for_arc, try_boxed_slice,
    },
};

/// Where a domain is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum LifeState {
    /// Being put together; it has not run yet.
    Building = 0,
    /// Its vCPUs may run.
    Running = 1,
    /// It ended by itself or by a fault; all it has is still there.
    Shutdown = 2,
    /// It is being taken apart.
    Dying = 3,
    /// Nothing is left of it, and its number is free.
    Dead = 4,
}

/// The steps of taking a domain apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Teardown {
    /// Waits for its vCPUs and for those at work on its memory to stop.
    Stop,
    /// Ends its page tables, where the hypervisor checks them.
    PageTables,
    /// Ends what it shares with others.
    Connections,
    /// Gives memory back.
    Memory(Relinquish),
    /// Its part is done; frames held by others are left.
    Finished,
}

/// No reason was given yet.
const NO_REASON: u32 = u32::MAX;

/// A domain's state of life.
pub struct Life {
    state: AtomicU8,
    reason: AtomicU32,
    teardown: Mutex<Teardown>,
    /// Its own part of the destruction is done: the last frame's return ends it.
    taken_apart: AtomicBool,
}

impl Life {
    pub(super) const fn new() -> Self {
        Self {
            state: AtomicU8::new(LifeState::Building as u8),
            reason: AtomicU32::new(NO_REASON),
            teardown: Mutex::new(Rank::Domain, Teardown::Stop),
            taken_apart: AtomicBool::new(false),
        }
    }

    /// Where the domain is.
    pub fn state(&self) -> LifeState {
        match self.state.load(SeqCst) {
            0 => LifeState::Building,
            1 => LifeState::Running,
            2 => LifeState::Shutdown,
            3 => LifeState::Dying,
            _ => LifeState::Dead,
        }
    }

    /// Whether it is being taken apart, or gone.
    pub fn is_dying(&self) -> bool {
        self.state() >= LifeState::Dying
    }

    /// The reason it gave (`SHUTDOWN_*`), meaningful when it is shut down.
    pub fn reason(&self) -> u32 {
        self.reason.load(Relaxed)
    }

    /// Sets the reason, also in advance (`SCHEDOP_shutdown_code`). The first one stands.
    pub fn set_reason(&self, reason: u32) {
        let _ = self
            .reason
            .compare_exchange(NO_REASON, reason, Relaxed, Relaxed);
    }

    /// Moves on to `to` unless the domain is there or further; tells whether it moved.
    fn advance(&self, to: LifeState) -> bool {
        self.state
            .fetch_update(SeqCst, SeqCst, |now| (now < to as u8).then_some(to as u8))
            .is_ok()
    }

    fn change(&self, from: LifeState, to: LifeState) -> bool {
        self.state
            .compare_exchange(from as u8, to as u8, SeqCst, SeqCst)
            .is_ok()
    }
}

/// What the machine does because its privileged domain ended. The architecture carries it out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MachineAction {
    /// Power off.
    PowerOff,
    /// Restart.
    Restart,
}

impl MachineAction {
    /// Does it.
    pub fn carry_out<H: Hal>(self, hal: &H) -> ! {
        match self {
            Self::PowerOff => hal.power_off(),
            Self::Restart => hal.restart(),
        }
    }
}

/// How far a destruction has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Destroyed {
    /// All that the domain itself held is given back.
    Yes,
    /// Call again after pending work was looked at.
    NotYet,
}

impl<H: Hal> Hypervisor<H> {
    /// Makes a domain with an empty address space and puts it into the domain table. All its vCPUs are down and it is
    /// state is building: whoever makes it fills its memory, then calls [`Hypervisor::domain_built`].
    ///
    /// A paravirtual one has no use for a translation: what `make_p2m` gives is kept, and never asked.
    ///
    /// `make_p2m` gets the source of table frames that is charged to the domain.
    ///
    /// # Errors
    /// `EINVAL` for a reserved number, a kind that there is not, or a number of vCPUs that is not the configured one, `EEXIST` when the number is
    /// taken, `ENOMEM`.
    pub fn create_domain(
        &self,
        config: DomainConfig,
        arch: H::Domain,
        vcpus: Vec<H::Vcpu>,
        make_p2m: impl FnOnce(&dyn TableFrames) -> Result<H::P2m, NoMemory>,
    ) -> Result<DomainRef<H>, Errno> {
        if config.id >= super::DomId::FIRST_RESERVED
            || (config.kind == GuestKind::Paravirtual && !H::PV)
            || vcpus.is_empty()
            || vcpus.len() != usize::from(config.vcpus)
        {
            return Err(Errno::EINVAL);
        }
        if self.domains.get(config.id).is_some() {
            return Err(Errno::EEXIST);
        }
        let ids = (0..config.vcpus).map(VcpuId);
        let vcpus = ids.zip(vcpus).map(|(id, arch)| Vcpu::new(id, arch));
        let vcpus = try_boxed_slice(vcpus).map_err(|_| Errno::ENOMEM)?;
        room_for_arc::<Domain<H>>().map_err(|_| Errno::ENOMEM)?;

        let memory = DomainMemory::new(config.max_frames);
        let tables = DomainTables::new(&self.hal, &self.memory, &memory);
        let p2m = make_p2m(&tables).map_err(|_| Errno::ENOMEM)?;
        let Ok(shared_info) = self.allocate_shared_on(&config, &memory) else {
            p2m.release(&tables);
            return Err(Errno::ENOMEM);
        };
        let parts = DomainParts {
            arch,
            p2m,
            vcpus,
            shared_info,
            shared_frame: self.hal.frame(shared_info),
            memory,
        };
        let domain = Domain::assemble(config, parts);
        self.mask_upcalls(&domain);
        self.enlist(&domain).inspect_err(|_| {
            self.release_shared(&domain, domain.shared_info);
            domain.p2m.release(&self.tables(&domain));
        })?;
        Ok(domain)
    }

    /// Makes a new domain known to the scheduler and to everybody.
    fn enlist(&self, domain: &DomainRef<H>) -> Result<(), Errno> {
        self.admit_domain(domain).map_err(|_| Errno::ENOMEM)?;
        let Err(domain) = self.domains.insert(domain.clone()) else {
            return Ok(());
        };
        self.dismiss_domain(&domain);
        // Another CPU took the number since, or the list of domains cannot grow.
        Err(match self.domains.get(domain.id()) {
            Some(_) => Errno::EEXIST,
            None => Errno::ENOMEM,
        })
    }

    /// The domain has all it needs: its vCPUs run as far as they are up and not paused.
    pub fn domain_built(&self, domain: &DomainRef<H>) {
        domain.life.change(LifeState::Building, LifeState::Running);
    }

    /// The domain ends with a reason of its own (`SHUTDOWN_*`) and stays to be looked at. What this means for the
    /// machine is the result: only the end of the privileged domain means anything.
    #[must_use]
    pub fn shutdown(&self, domain: &DomainRef<H>, reason: u32) -> Option<MachineAction> {
        if !domain.life.advance(LifeState::Shutdown) {
            return None;
        }
        domain.life.set_reason(reason);
        let reason = domain.life.reason();
        self.pause_domain(domain);
        if !domain.config.privileged {
            self.announce_end();
            return None;
        }
        log::info!(
            "hardware domain {} ends with reason {reason}",
            domain.id().0
        );
        Some(match ShutdownReason::try_from(reason) {
            Ok(ShutdownReason::Poweroff) => MachineAction::PowerOff,
            _ => MachineAction::Restart,
        })
    }

    /// The domain did something that it cannot go on after.
    #[must_use]
    pub fn crash(
        &self,
        domain: &DomainRef<H>,
        why: core::fmt::Arguments<'_>,
    ) -> Option<MachineAction> {
        log::error!("domain {} crashed: {why}", domain.id().0);
        self.shutdown(domain, ShutdownReason::Crash.number())
    }

    /// Lets a shut-down domain go on (after it was saved); false when it was not shut down.
    pub fn resume(&self, domain: &DomainRef<H>) -> bool {
        if !domain.life.change(LifeState::Shutdown, LifeState::Running) {
            return false;
        }
        domain.life.reason.store(NO_REASON, Relaxed);
        self.unpause_domain(domain);
        true
    }

    /// Takes a domain apart, in pieces: call it until it says [`Destroyed::Yes`]. The domain leaves the table when its
    /// last frame is free. The privileged domain cannot be destroyed; the caller sees to that.
    pub fn destroy(&self, domain: &DomainRef<H>) -> Destroyed {
        if domain.life.advance(LifeState::Dying) {
            self.dismiss_domain(domain);
        }
        let Some(mut step) = domain.life.teardown.try_lock() else {
            return Destroyed::NotYet;
        };
        loop {
            match &mut *step {
                Teardown::Stop => {
                    if !domain.memory.close() || self.is_domain_running(domain) {
                        return Destroyed::NotYet;
                    }
                    // A vCPU that was still on its CPU may have set timers since.
                    for vcpu in crate::VcpuRef::all(domain) {
                        self.cancel_timers(&vcpu);
                    }
                    *step = Teardown::PageTables;
                }
                Teardown::PageTables => {
                    if domain.is_pv() && !self.hal.drop_page_tables(domain.id()) {
                        return Destroyed::NotYet;
                    }
                    *step = Teardown::Connections;
                }
                Teardown::Connections => {
                    if !self.cut_connections(domain) {
                        return Destroyed::NotYet;
                    }
                    *step = Teardown::Memory(Relinquish::START);
                }
                Teardown::Memory(at) => {
                    if self.relinquish_memory(domain, at) == RelinquishStep::Preempted {
                        return Destroyed::NotYet;
                    }
                    *step = Teardown::Finished;
                    drop(step);
                    domain.life.taken_apart.store(true, SeqCst);
                    self.bury_if_empty(domain);
                    return Destroyed::Yes;
                }
                Teardown::Finished => return Destroyed::Yes,
            }
        }
    }

    /// Ends what a dying domain shares with the machine and with others; false when it has to go on later. Ports go
    /// before the pages in which they are marked pending.
    fn cut_connections(&self, domain: &DomainRef<H>) -> bool {
        self.hal.release_domain(&domain.arch);
        if self.close_all_ports(domain) == Progress::Interrupted
            || self.release_grants(domain) == Released::NotYet
        {
            return false;
        }
        self.forget_vcpu_infos(domain);
        self.release_shared(domain, domain.shared_info);
        true
    }

    /// Removes a domain that was taken apart and of which no frame is left.
    pub(crate) fn bury_if_empty(&self, domain: &DomainRef<H>) {
        if domain.life.taken_apart.load(SeqCst)
            && domain.memory.is_empty()
            && domain.life.change(LifeState::Dying, LifeState::Dead)
        {
            self.domains.remove(domain.id());
            self.announce_end();
        }
    }

    /// Tells the control domain that some domain ended (`VIRQ_DOM_EXC`).
    fn announce_end(&self) {
        self.send_global_virq(Virq::DomExc);
    }
}

#[cfg(test)]
mod tests;

impl<H: Hal> Hypervisor<H> {
    /// As [`Hypervisor::shutdown`], and does to the machine what that means for it.
    pub fn shutdown_domain(&self, domain: &DomainRef<H>, reason: u8) {
        if let Some(action) = self.shutdown(domain, reason.into()) {
            action.carry_out(&self.hal);
        }
    }
}
