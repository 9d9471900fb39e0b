//! What each physical CPU keeps for itself; TPIDR_EL2 points to it.

use core::cell::{Cell, RefCell};
use core::sync::atomic::AtomicU32;

use xenolith_core::{Hypervisor, VcpuRef};
use xenolith_hal::CpuId;

use super::regs::{read, write};
use crate::Aarch64;

/// Data of one CPU. Only that CPU touches it, so cells are enough.
pub struct PerCpu {
    /// Its number.
    pub id: CpuId,
    /// The hypervisor.
    pub hv: &'static Hypervisor<Aarch64>,
    /// Its affinity value (MPIDR_EL1).
    pub mpidr: u64,
    /// The work flags of the scheduler for this CPU; zero means "enter the guest".
    pub work: &'static AtomicU32,
    /// The vCPU whose EL1 context is in this CPU's registers.
    pub loaded: RefCell<Option<VcpuRef<Aarch64>>>,
    /// The loaded vCPU has used floating point since it was loaded.
    pub fp_in_use: Cell<bool>,
    /// The timer deadline that the hardware holds, in counter ticks.
    pub timer: Cell<u64>,
}

impl PerCpu {
    /// Makes this the data of the executing CPU.
    pub fn install(&'static self) {
        write!("tpidr_el2", core::ptr::from_ref(self) as u64);
    }

    /// The executing CPU's data; `None` before [`PerCpu::install`].
    #[inline(always)]
    pub fn try_current() -> Option<&'static Self> {
        let at = read!("tpidr_el2") as *const Self;
        // SAFETY: the register is zero or was written by `install` with a reference that lives for ever.
        unsafe { at.as_ref() }
    }
}

/// The executing CPU's number; 0 while it has no data yet (only the boot CPU runs then).
#[inline(always)]
pub fn cpu_id() -> CpuId {
    PerCpu::try_current().map_or(CpuId(0), |cpu| cpu.id)
}
