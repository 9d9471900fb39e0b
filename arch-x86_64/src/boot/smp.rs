//! Bringing the CPUs up: INIT, then two start-up interrupts (Intel SDM, volume 3, 9.4).

use core::sync::atomic::{AtomicU32, Ordering::SeqCst};

use xenolith_arch_common::boot_memory;
use xenolith_core::Hypervisor;
use xenolith_hal::{CpuId, HostPhys, MAX_CPUS, Nanos};

use super::head::{self, SECONDARY};
use crate::{
    X86_64, apic,
    cpu::{self, percpu::PerCpu},
    guest::fpu,
    machine::{self, Virtualization},
    mm::hyp::{Direct, FourLevels},
    svm::{cpu as svm, vcpu::Svm},
    timer,
    vmx::{cpu as vmx, vcpu::Vmx},
};

/// How long a CPU may take to come up.
const PATIENCE: Nanos = Nanos::from_millis(1000);
const AFTER_INIT: Nanos = Nanos::from_millis(10);
const AFTER_STARTUP: Nanos = Nanos::from_micros(200);

static ONLINE: AtomicU32 = AtomicU32::new(0);
static HV: spin::Once<&'static Hypervisor<X86_64>> = spin::Once::new();

/// Makes the executing CPU part of the machine: its data, interrupts, scheduling.
pub(super) fn join(hv: &'static Hypervisor<X86_64>, id: CpuId) -> &'static PerCpu {
    hv.sched.online(id);
    apic::enable();
    apic::set_id(id, apic::own_id());
    let cpu = boot_memory::leak(PerCpu::new(id, hv));
    cpu.install();
    if machine::virtualization().is_some() {
        fpu::start();
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

/// Starts every other CPU and waits until each has joined or is given up.
pub(super) fn start_others(
    hv: &'static Hypervisor<X86_64>,
    apic_ids: &[u32],
    trampoline: HostPhys,
) {
    HV.call_once(|| hv);
    if Direct::write(trampoline.frame(), 0, head::trampoline_code()).is_err() {
        log::warn!("the page for starting CPUs is not RAM: one CPU only");
        return;
    }
    let own = apic::own_id();
    let mut next = 1u16;
    #[allow(
        clippy::explicit_counter_loop,
        reason = "a CPU that does not start takes no number"
    )]
    for id in apic_ids.iter().copied().filter(|id| *id != own) {
        if usize::from(next) >= MAX_CPUS {
            break;
        }
        let Some(stack_top) = boot_memory::stack::<FourLevels>(&hv.memory, u64::from(next)) else {
            log::warn!("no memory for the stack of the CPU with APIC number {id}");
            break;
        };
        SECONDARY.stack_top.store(stack_top, SeqCst);
        SECONDARY.cpu.store(u64::from(next), SeqCst);
        if !start_one(id, trampoline) {
            // It may still come, on the stack that it was given: no other CPU is started after it.
            log::warn!("the CPU with APIC number {id} does not answer; those after it stay off");
            break;
        }
        next += 1;
    }
}

fn start_one(id: u32, trampoline: HostPhys) -> bool {
    let seen = ONLINE.load(SeqCst);
    let joined = || ONLINE.load(SeqCst) != seen;
    apic::send_init(id);
    timer::wait(AFTER_INIT, || false);
    apic::send_startup(id, trampoline);
    if timer::wait(AFTER_STARTUP, joined) {
        return true;
    }
    apic::send_startup(id, trampoline);
    timer::wait(PATIENCE, joined)
}

/// The executing CPU does its work for ever.
pub(super) fn run(cpu: &'static PerCpu) -> ! {
    if cpu.svm.get().is_some() {
        cpu::run::run::<Svm>(cpu)
    }
    if cpu.vmx.get().is_some() {
        cpu::run::run::<Vmx>(cpu)
    }
    loop {
        cpu::run::idle(cpu);
    }
}

/// Every other CPU comes here, on its own stack.
pub(super) extern "C" fn secondary(cpu: u64) -> ! {
    let id = CpuId(cpu as u16);
    cpu::start(id);
    let Some(hv) = HV.get() else {
        cpu::fault::halt()
    };
    let cpu = join(hv, id);
    ONLINE.fetch_add(1, SeqCst);
    run(cpu)
}
