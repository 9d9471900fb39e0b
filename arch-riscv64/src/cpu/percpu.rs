//! What each hart keeps for itself; the thread pointer (tp) points to it.

use core::{
    cell::{Cell, RefCell},
    sync::atomic::AtomicU32,
};

use xenolith_core::{DomId, Hypervisor, VcpuRef};
use xenolith_hal::CpuId;

use crate::Riscv64;

/// Data of one CPU. Only that CPU touches it, so cells are enough.
pub struct PerCpu {
    /// Its number.
    pub id: CpuId,
    /// Its hart number, as firmware knows it.
    pub hart: u64,
    /// The hypervisor.
    pub hv: &'static Hypervisor<Riscv64>,
    /// The work flags of the scheduler for this CPU; zero means "enter the guest".
    pub work: &'static AtomicU32,
    /// The vCPU whose VS-mode context is in this CPU's registers.
    pub loaded: RefCell<Option<VcpuRef<Riscv64>>>,
    /// The last domain without a number of its own in the TLB that was loaded.
    pub shared_vmid: Cell<Option<DomId>>,
    /// The loaded vCPU has used floating point since it was loaded.
    pub fp_in_use: Cell<bool>,
    /// The timer deadline that the hardware holds, in counter ticks.
    pub timer: Cell<u64>,
}

impl PerCpu {
    /// Makes this the data of the executing CPU.
    pub fn install(&'static self) {
        // SAFETY: compiled code leaves tp alone, there being no thread-local variables.
        unsafe {
            core::arch::asm!("mv tp, {}", in(reg) core::ptr::from_ref(self), options(nostack, preserves_flags));
        }
    }

    /// The executing CPU's data; `None` before [`PerCpu::install`].
    #[inline(always)]
    pub fn try_current() -> Option<&'static Self> {
        let at: *const Self;
        // SAFETY: tp is zero or was written by `install` with a reference that lives for ever.
        unsafe {
            core::arch::asm!("mv {}, tp", out(reg) at, options(nomem, nostack, preserves_flags));
            at.as_ref()
        }
    }
}

/// The executing CPU's number; 0 while it has no data yet (only the boot CPU runs then).
#[inline(always)]
pub fn cpu_id() -> CpuId {
    PerCpu::try_current().map_or(CpuId(0), |cpu| cpu.id)
}
