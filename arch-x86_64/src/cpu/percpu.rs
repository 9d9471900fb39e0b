//! What each physical CPU keeps for itself; the GS base points to it.

use core::{
    cell::{Cell, OnceCell, RefCell},
    ptr,
    sync::atomic::{AtomicPtr, AtomicU32, Ordering::Relaxed},
};

use x86_64::{VirtAddr, registers::model_specific::GsBase};
use xenolith_core::{DomId, DomainRef, Hypervisor, VcpuRef};
use xenolith_hal::CpuId;

use super::shootdown::{self, Presence};
use crate::{X86_64, svm::cpu::SvmCpu, vmx::cpu::VmxCpu};

/// Data of one CPU. Only that CPU touches it.
#[repr(C)]
pub struct PerCpu {
    /// Its own address, so that one load through GS finds it.
    this: AtomicPtr<PerCpu>,
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
    /// The same for VMX.
    pub vmx: OnceCell<VmxCpu>,
    /// Which guest it runs, for those who change that guest's tables.
    presence: &'static Presence,
    visits: Cell<u64>,
    /// The domain whose guest it ran last.
    pub last: Cell<Option<DomId>>,
}

/// What GS points to while a CPU has no data yet.
static NONE: AtomicPtr<PerCpu> = AtomicPtr::new(ptr::null_mut());

/// This CPU has no data yet. First of all, on each CPU.
pub fn init_early() {
    GsBase::write(VirtAddr::from_ptr(&NONE));
}

impl PerCpu {
    /// Data of the CPU `id`.
    pub fn new(id: CpuId, hv: &'static Hypervisor<X86_64>) -> Self {
        Self {
            this: AtomicPtr::new(ptr::null_mut()),
            id,
            hv,
            work: hv.sched.work(id),
            loaded: RefCell::new(None),
            svm: OnceCell::new(),
            vmx: OnceCell::new(),
            presence: shootdown::of(id),
            visits: Cell::new(0),
            last: Cell::new(None),
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
        self.this.store(ptr::from_ref(self).cast_mut(), Relaxed);
        GsBase::write(VirtAddr::from_ptr(self));
    }

    /// The executing CPU's data; `None` before [`PerCpu::install`].
    #[inline(always)]
    pub fn try_current() -> Option<&'static Self> {
        let at: *const Self;
        // SAFETY: GS points to a null pointer or to the data of this CPU, which begins with its own address and lives for
        // ever.
        unsafe {
            core::arch::asm!("mov {}, gs:[0]", out(reg) at, options(nostack, preserves_flags, readonly));
            at.as_ref()
        }
    }
}

/// The executing CPU's number; 0 while it has no data yet (only the boot CPU runs then).
#[inline(always)]
pub fn cpu_id() -> CpuId {
    PerCpu::try_current().map_or(CpuId(0), |cpu| cpu.id)
}
