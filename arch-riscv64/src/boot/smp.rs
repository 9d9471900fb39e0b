//! Bringing the harts up.

use core::cell::{Cell, RefCell};
use core::sync::atomic::{AtomicU32, Ordering::SeqCst};

use xenolith_arch_common::boot_memory;
use xenolith_core::Hypervisor;
use xenolith_hal::{CpuId, MAX_CPUS, Nanos};

use super::head;
use crate::{
    Riscv64,
    cpu::{self, percpu::PerCpu},
    guest::{fp, interrupts::DEVICES_GO_TO},
    mm::{
        fences,
        hyp::{Hyp, Own},
    },
    sbi, timer,
};

/// How long a hart may take to come up.
const PATIENCE: Nanos = Nanos::from_millis(1000);

static ONLINE: AtomicU32 = AtomicU32::new(0);
/// The CPU that may join now. One that comes too late stays off: domains may have been made without it.
static AWAITED: AtomicU32 = AtomicU32::new(NONE);
const NONE: u32 = u32::MAX;
static HV: spin::Once<&'static Hypervisor<Riscv64>> = spin::Once::new();

/// Makes the executing hart part of the machine: its data, interrupts, scheduling.
pub(super) fn join(hv: &'static Hypervisor<Riscv64>, id: CpuId, hart: u64) -> &'static PerCpu {
    hv.sched.online(id);
    let cpu = boot_memory::leak(PerCpu {
        id,
        hart,
        hv,
        work: hv.sched.work(id),
        loaded: RefCell::new(None),
        shared_vmid: Cell::new(None),
        fp_in_use: Cell::new(false),
        timer: Cell::new(u64::MAX),
    });
    cpu.install();
    sbi::set_hart(id, hart);
    cpu::run::init();
    cpu::interrupts_wake(id == DEVICES_GO_TO);
    cpu
}

/// Starts every other hart and waits until each has joined or is given up.
/// `most` is how many there shall be at most, with the boot hart.
pub(super) fn start_others(
    hv: &'static Hypervisor<Riscv64>,
    harts: &[u64],
    own: u64,
    most: Option<u32>,
) {
    HV.call_once(|| hv);
    let most = most.map_or(MAX_CPUS, |most| MAX_CPUS.min(most as usize));
    let mut next = 1u16;
    for hart in harts.iter().copied().filter(|hart| *hart != own) {
        if usize::from(next) >= most {
            break;
        }
        let Some(stack_top) = boot_memory::stack::<Own>(&hv.memory, u64::from(next)) else {
            log::warn!("no memory for the stack of hart {hart}");
            break;
        };
        sbi::set_hart(CpuId(next), hart);
        let start = boot_memory::leak(head::SecondaryStart {
            stack_top,
            cpu: u64::from(next),
        });
        let entry = Hyp::image_phys(head::secondary_entry());
        let seen = ONLINE.load(SeqCst);
        AWAITED.store(u32::from(next), SeqCst);
        if let Err(error) = sbi::hart_start(hart, entry, core::ptr::from_ref(start) as u64) {
            log::warn!("hart {hart} does not start: the SBI firmware says {error:?}");
            continue;
        }
        let deadline = timer::now().plus(PATIENCE);
        while ONLINE.load(SeqCst) == seen {
            if timer::now() > deadline && is_awaited(u64::from(next)) {
                log::warn!("hart {hart} was started and does not answer");
                break;
            }
            core::hint::spin_loop();
        }
        next += 1;
    }
}

/// Whether a CPU comes in time; once for each.
fn is_awaited(cpu: u64) -> bool {
    let cpu = cpu as u32;
    AWAITED.compare_exchange(cpu, NONE, SeqCst, SeqCst).is_ok()
}

/// Every other hart comes here, on its own stack.
pub(super) extern "C" fn secondary(cpu: u64) -> ! {
    cpu::vectors::install();
    let id = CpuId(cpu as u16);
    let Some(hv) = HV.get() else {
        cpu::fault::halt()
    };
    let runs_guests = cpu::has_hypervisor_extension() && fences::can_join();
    if !runs_guests || !timer::suits() || !fp::suits() || !is_awaited(cpu) {
        log::warn!("hart {} cannot run guests and stays off", sbi::hart(id));
        cpu::fault::halt()
    }
    let cpu = join(hv, id, sbi::hart(id));
    ONLINE.fetch_add(1, SeqCst);
    cpu::run::run(cpu)
}
