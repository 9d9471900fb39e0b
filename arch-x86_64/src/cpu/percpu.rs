//! What each physical CPU keeps for itself.
//!
//! A CPU finds its number in the limit of a descriptor of its own table ([`super::descriptors`]), which works on any stack and
//! whatever FS, GS and TR hold: with SVM those are the guest's while the hypervisor serves an exit.

use core::{
    cell::{Cell, OnceCell, RefCell},
    ptr,
    sync::atomic::{
        AtomicPtr, AtomicU32,
        Ordering::{Acquire, Release},
    },
};

use xenolith_core::{DomId, DomainRef, Hypervisor, VcpuRef};
use xenolith_hal::{CpuId, MAX_CPUS, Nanos};

use super::{
    descriptors::CPU_NUMBER,
    shootdown::{self, Presence},
};
use crate::{X86_64, pv::gate::Gates, svm::cpu::SvmCpu, vmx::cpu::VmxCpu};

/// Data of one CPU. Only that CPU touches it.
pub struct PerCpu {
    /// Its number.
    pub id: CpuId,
    /// The hypervisor.
    pub hv: &'static Hypervisor<X86_64>,
    /// The work flags of the scheduler for this CPU.
    pub work: &'static AtomicU32,
    /// The vCPU whose context is in this CPU's registers.
    pub loaded: RefCell<Option<VcpuRef<X86_64>>>,
    /// What it keeps for SVM, once that is on.
    pub svm: OnceCell<SvmCpu>,
    /// System calls of guests in ring 3 enter the hypervisor: no other guest has changed the registers since that was set up.
    pub takes_system_calls: Cell<bool>,
    /// Its places for guests in ring 3.
    pub gates: OnceCell<Gates>,
    /// The same for VMX.
    pub vmx: OnceCell<VmxCpu>,
    /// Which guest it runs, for those who change that guest's tables.
    presence: &'static Presence,
    visits: Cell<u64>,
    /// The domain whose guest it ran last.
    pub last: Cell<Option<DomId>>,
    /// When its machine-check banks were looked at.
    pub banks_seen: Cell<Nanos>,
}

/// The data of each CPU, once it has some.
static CPUS: [AtomicPtr<PerCpu>; MAX_CPUS] = [const { AtomicPtr::new(ptr::null_mut()) }; MAX_CPUS];

impl PerCpu {
    /// Data of the CPU `id`.
    pub fn new(id: CpuId, hv: &'static Hypervisor<X86_64>) -> Self {
        Self {
            id,
            hv,
            work: hv.sched.work(id),
            loaded: RefCell::new(None),
            svm: OnceCell::new(),
            vmx: OnceCell::new(),
            takes_system_calls: Cell::new(false),
            gates: OnceCell::new(),
            presence: shootdown::of(id),
            visits: Cell::new(0),
            last: Cell::new(None),
            banks_seen: Cell::new(Nanos(0)),
        }
    }

    /// This CPU is about to enter a guest of the domain: how often the domain's tables were changed, to be compared with
    /// what the CPU's cached translations were made from.
    #[inline(always)]
    pub fn begin_guest(&self, domain: &DomainRef<X86_64>) -> u64 {
        let visit = self.visits.get().wrapping_add(1);
        self.visits.set(visit);
        self.presence.enter(domain.p2m.root(), visit);
        domain.p2m.memory().0.count()
    }

    /// The guest has stopped.
    #[inline(always)]
    pub fn end_guest(&self) {
        self.presence.leave();
    }

    /// Makes this the data of the executing CPU.
    pub fn install(&'static self) {
        CPUS[self.id.index() % MAX_CPUS].store(ptr::from_ref(self).cast_mut(), Release);
    }

    /// The executing CPU's data; `None` before [`PerCpu::install`].
    #[inline(always)]
    pub fn try_current() -> Option<&'static Self> {
        let at = CPUS[cpu_id().index() % MAX_CPUS].load(Acquire);
        // SAFETY: null, or what `install` was given: data that lives for ever and is only read through this.
        unsafe { at.as_ref() }
    }
}

/// The executing CPU's number; 0 while it has no descriptors yet (only the boot CPU looks then).
#[inline(always)]
pub fn cpu_id() -> CpuId {
    let number: u32;
    // SAFETY: reads a limit; where there is no such descriptor, the register keeps its 0. No code moves between CPUs.
    unsafe {
        core::arch::asm!(
            "lsl {number:e}, {selector:e}",
            number = inout(reg) 0u32 => number,
            selector = in(reg) u32::from(CPU_NUMBER),
            options(pure, nomem, nostack),
        );
    }
    CpuId(number as u16)
}
