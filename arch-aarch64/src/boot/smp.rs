//! Bringing the CPUs up.

use core::cell::{Cell, RefCell};
use core::sync::atomic::{AtomicU32, Ordering::SeqCst};

use xenolith_arch_common::boot_memory::{leak, stack};
use xenolith_core::Hypervisor;
use xenolith_hal::{CpuId, MAX_CPUS};

use super::head;
use crate::{
    Aarch64,
    cpu::{
        self, errata,
        percpu::PerCpu,
        regs::read,
        speculation::{self, AtExit},
        vectors,
    },
    irq,
    mm::hyp::{self, El2, Hyp},
    smccc, timer,
};

/// Affinity bits of an MPIDR value.
const AFFINITY: u64 = 0xff_00ff_ffff;
/// How long a CPU may take to come up, in milliseconds.
const PATIENCE_MS: u64 = 1000;

static ONLINE: AtomicU32 = AtomicU32::new(0);
static HV: spin::Once<(&'static Hypervisor<Aarch64>, u64)> = spin::Once::new();

/// The affinity of the executing CPU.
pub(super) fn own_mpidr() -> u64 {
    read!("mpidr_el1") & AFFINITY
}

/// Makes the executing CPU part of the machine: its data, interrupts, timers, scheduling.
pub(super) fn join(hv: &'static Hypervisor<Aarch64>, id: CpuId, vtcr: u64) -> &'static PerCpu {
    hv.sched.online(id);
    let cpu = leak(PerCpu {
        id,
        hv,
        mpidr: own_mpidr(),
        work: hv.sched.work(id),
        loaded: RefCell::new(None),
        fp_in_use: Cell::new(false),
        timer: Cell::new(u64::MAX),
    });
    cpu.install();
    cpu::run::init(vtcr);
    for what in errata::look(read!("midr_el1")) {
        log::info!("working around {what}");
    }
    guard_against_speculation(id);
    if let Some(gic) = irq::gic()
        && let Err(error) = gic.init_cpu(id, cpu.mpidr)
    {
        log::error!("CPU {}: no interrupts: {error:?}", id.0);
    }
    cpu
}

/// Sets up what the firmware offers against speculation on this CPU.
fn guard_against_speculation(id: CpuId) {
    let offers = smccc::offers();
    let plan = offers.plan(read!("id_aa64pfr0_el1"));
    if plan.stores {
        smccc::keep_stores_in_order();
    }
    vectors::choose(plan.at_exit);
    speculation::MACHINE.join(offers, plan);
    if plan.stores || plan.at_exit != AtExit::Nothing {
        log::info!(
            "CPU {}: the firmware guards against speculation: {plan:?}",
            id.0
        );
    }
}

/// Starts every other CPU and waits until each has joined or is given up.
pub(super) fn start_others(
    hv: &'static Hypervisor<Aarch64>,
    mpidrs: &[u64],
    limit: usize,
    vtcr: u64,
) {
    HV.call_once(|| (hv, vtcr));
    let own = own_mpidr();
    let mut next = 1u16;
    for mpidr in mpidrs.iter().copied().filter(|m| *m != own) {
        if usize::from(next) >= limit.min(MAX_CPUS) {
            break;
        }
        let Some(stack_top) = stack::<El2>(&hv.memory, u64::from(next)) else {
            log::warn!("no memory for the stack of CPU {mpidr:#x}");
            break;
        };
        let start = leak(head::SecondaryStart {
            stack_top,
            cpu: u64::from(next),
        });
        let entry = Hyp::image_phys(head::secondary_entry());
        let seen = ONLINE.load(SeqCst);
        if let Err(error) = smccc::cpu_on(mpidr, entry, core::ptr::from_ref(start) as u64) {
            log::warn!("CPU {mpidr:#x} does not start: PSCI says {error}");
            continue;
        }
        let deadline = timer::now().plus(xenolith_hal::Nanos::from_millis(PATIENCE_MS));
        while ONLINE.load(SeqCst) == seen {
            if timer::now() > deadline {
                log::warn!("CPU {mpidr:#x} was started and does not answer");
                break;
            }
            core::hint::spin_loop();
        }
        next += 1;
    }
    hyp::drop_identity();
}

/// Every other CPU comes here, on its own stack.
pub(super) extern "C" fn secondary(cpu: u64) -> ! {
    cpu::regs::write!("tpidr_el2", 0);
    cpu::vectors::install();
    let Some((hv, vtcr)) = HV.get() else {
        cpu::fault::halt()
    };
    let cpu = join(hv, CpuId(cpu as u16), *vtcr);
    ONLINE.fetch_add(1, SeqCst);
    cpu::run::run(cpu)
}
