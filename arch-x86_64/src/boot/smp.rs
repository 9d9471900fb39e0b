//! Bringing the CPUs up: INIT, then two start-up interrupts (Intel SDM, volume 3, 9.4). Before a CPU reads the time, its
//! time-stamp counter is compared with CPU 0's, and moved if it differs. A CPU on which the time cannot be told stays off.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering::SeqCst};

use xenolith_arch_common::boot_memory;
use xenolith_core::Hypervisor;
use xenolith_hal::{CpuId, HostPhys, MAX_CPUS, Nanos, NoMemory};

use super::head::{self, SECONDARY};
use crate::{
    X86_64, apic,
    cpu::{self, percpu::PerCpu},
    guest::fpu,
    machine::{self, Virtualization},
    mm::hyp::{Direct, FourLevels},
    pv::{self, gate::Gates},
    svm::{cpu as svm, vcpu::Svm},
    timer,
    tsc_sync::{Admission, Limits, Meeting, Outcome, Verdict},
    vmx::{cpu as vmx, vcpu::Vmx},
};

/// How long a CPU may take to come up.
const PATIENCE: Nanos = Nanos::from_millis(1000);
const AFTER_INIT: Nanos = Nanos::from_millis(10);
const AFTER_STARTUP: Nanos = Nanos::from_micros(200);

/// How long the comparison of two time-stamp counters may take, once it has begun.
const COMPARING: Nanos = Nanos::from_millis(2);

/// To know the difference of two counters as well as this is enough, when that time is over.
const CLOSE: Nanos = Nanos::from_micros(5);

/// CPUs that have begun to run.
static ARRIVED: AtomicU32 = AtomicU32::new(0);
/// CPUs that have joined.
static ONLINE: AtomicU32 = AtomicU32::new(0);
/// Where each CPU meets the boot CPU, so that a late one meets nobody else's.
static MEETINGS: [Meeting; MAX_CPUS] = [const { Meeting::new() }; MAX_CPUS];
static HV: spin::Once<&'static Hypervisor<X86_64>> = spin::Once::new();

/// Makes the executing CPU part of the machine: its data, interrupts, scheduling.
pub(super) fn join(hv: &'static Hypervisor<X86_64>, id: CpuId) -> &'static PerCpu {
    hv.sched.online(id);
    apic::enable();
    apic::set_id(id, apic::own_id());
    let cpu = boot_memory::leak(PerCpu::new(id, hv));
    cpu.install();
    fpu::start();
    pv::switch::start();
    match Gates::install(hv, id) {
        Ok(gates) => {
            let _ = cpu.gates.set(gates);
        }
        Err(NoMemory) => log::error!("no memory for guests in ring 3 on CPU {}", id.0),
    }
    match machine::virtualization() {
        Some(Virtualization::Svm(features)) => match svm::start(hv, features) {
            Some(svm) => {
                let _ = cpu.svm.set(svm);
            }
            None => log::error!("no memory for guests on CPU {}", id.0),
        },
        Some(Virtualization::Vmx(features)) => {
            if let Some(vmx) = vmx::start(hv, features, id) {
                let _ = cpu.vmx.set(vmx);
            }
        }
        None => {}
    }
    cpu
}

/// Starts other CPUs until there are `most`, and waits until each has joined or is given up.
pub(super) fn start_others(
    hv: &'static Hypervisor<X86_64>,
    apic_ids: impl Iterator<Item = u32>,
    most: usize,
    trampoline: HostPhys,
) {
    HV.call_once(|| hv);
    if Direct::write(trampoline.frame(), 0, head::trampoline_code()).is_err() {
        log::warn!("the page for starting CPUs is not RAM: one CPU only");
        return;
    }
    let own = apic::own_id();
    let mut counters = Counters::default();
    let mut running = 1;
    let (reached, beyond): (Vec<u32>, Vec<u32>) = apic_ids
        .filter(|id| *id != own)
        .partition(|id| *id <= apic::last_id());
    if !beyond.is_empty() {
        let count = beyond.len();
        log::warn!("{count} CPUs have APIC numbers that only x2APIC reaches: they stay off");
    }
    for (next, id) in (1u16..).zip(reached) {
        if running >= most || usize::from(next) >= MAX_CPUS {
            break;
        }
        let Some(stack_top) = boot_memory::stack::<FourLevels>(&hv.memory, u64::from(next)) else {
            log::warn!("no memory for the stack of the CPU with APIC number {id}");
            break;
        };
        SECONDARY.stack_top.store(stack_top, SeqCst);
        SECONDARY.cpu.store(u64::from(next), SeqCst);
        match start_one(id, CpuId(next), trampoline, &mut counters) {
            Some(Admission::Joins) => running += 1,
            // It keeps its number and its stack, on which it stands still.
            Some(Admission::StaysOff) => {}
            None => {
                // It may still come, on the stack that it was given: no other CPU is started after it.
                log::warn!(
                    "the CPU with APIC number {id} does not answer; those after it stay off"
                );
                break;
            }
        }
    }
    counters.report();
}

/// What became of a CPU; `None`: it does not answer.
fn start_one(
    id: u32,
    cpu: CpuId,
    trampoline: HostPhys,
    counters: &mut Counters,
) -> Option<Admission> {
    let (before, joined) = (ARRIVED.load(SeqCst), ONLINE.load(SeqCst));
    let has_arrived = || ARRIVED.load(SeqCst) != before;
    apic::send_init(id);
    timer::wait(AFTER_INIT, || false);
    apic::send_startup(id, trampoline);
    if !timer::wait(AFTER_STARTUP, has_arrived) {
        apic::send_startup(id, trampoline);
        if !timer::wait(PATIENCE, has_arrived) {
            return None;
        }
    }
    let admission = counters.compare(cpu)?;
    let is_done =
        admission == Admission::StaysOff || timer::wait(PATIENCE, || ONLINE.load(SeqCst) != joined);
    is_done.then_some(admission)
}

/// What comparing the time-stamp counters has shown so far.
#[derive(Default)]
struct Counters {
    /// CPUs whose counter agrees with CPU 0's.
    agree: usize,
    /// In how many ticks it can be said at best that they do, for the worst of them.
    within: u64,
}

impl Counters {
    /// Compares the counter of a CPU that has arrived and waits, and sends it on.
    fn compare(&mut self, cpu: CpuId) -> Option<Admission> {
        let limits = Limits {
            patience: timer::in_ticks(PATIENCE),
            budget: timer::in_ticks(COMPARING),
            enough: timer::in_ticks(CLOSE),
        };
        let meeting = MEETINGS.get(cpu.index())?;
        let settle = |outcome| self.settle(cpu, outcome);
        Some(meeting.lead(timer::own_ticks, limits, settle))
    }

    /// Before the CPU goes on, or does not.
    fn settle(&mut self, cpu: CpuId, Outcome { first, last }: Outcome) {
        let id = cpu.0;
        if let Verdict::Apart(bounds) = first {
            let ahead = bounds.middle();
            log::info!("the time-stamp counter of CPU {id} is {ahead} ticks ahead of CPU 0's");
        }
        match last {
            Verdict::Agree(bounds) => {
                self.agree += 1;
                self.within = self.within.max(bounds.width());
            }
            Verdict::Apart(bounds) => {
                timer::set_ahead(cpu, bounds.middle());
                log::warn!("it cannot be moved: time on CPU {id} is corrected by the difference");
            }
            Verdict::Unsteady => log::error!(
                "CPU {id} stays off: its time-stamp counter does not keep step with CPU 0's"
            ),
            Verdict::Silent => {
                log::error!("CPU {id} stays off: it does not say what its time-stamp counter shows")
            }
        }
    }

    fn report(&self) {
        if self.agree != 0 {
            let nanos = timer::from_ticks(self.within).0;
            let count = self.agree + 1;
            log::info!("time-stamp counters of {count} CPUs agree, to {nanos} ns");
        }
    }
}

/// The executing CPU does its work for ever.
pub(super) fn run(cpu: &'static PerCpu) -> ! {
    if cpu.vmx.get().is_some() {
        cpu::run::run::<Vmx>(cpu)
    }
    // Where there is neither, all guests are PV, and nothing of this backend is ever used.
    cpu::run::run::<Svm>(cpu)
}

/// Every other CPU comes here, on its own stack.
pub(super) extern "C" fn secondary(cpu: u64) -> ! {
    let id = CpuId(cpu as u16);
    cpu::start(id);
    let (Some(hv), Some(meeting)) = (HV.get(), MEETINGS.get(cpu as usize)) else {
        cpu::fault::halt()
    };
    ARRIVED.fetch_add(1, SeqCst);
    if meeting.follow(timer::own_ticks, timer::move_own) == Admission::StaysOff {
        cpu::fault::halt()
    }
    let cpu = join(hv, id);
    ONLINE.fetch_add(1, SeqCst);
    run(cpu)
}
