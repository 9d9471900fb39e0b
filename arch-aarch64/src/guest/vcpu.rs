//! The architecture's part of a vCPU and of a domain.

use core::cell::UnsafeCell;

use super::{context::El1Context, fp::FpContext, regs::GuestRegs};

/// Registers and interrupt state of one vCPU.
///
/// The cells are touched only by the CPU that runs the vCPU, or by whoever holds it off every CPU (it is down or
/// paused and the core says that it is on none).
pub struct ArchVcpu {
    regs: UnsafeCell<GuestRegs>,
    context: UnsafeCell<El1Context>,
    fp: UnsafeCell<FpContext>,
    /// Its affinity value (VMPIDR_EL2).
    pub vmpidr: u64,
}

// SAFETY: the cells follow the rule stated at the type; everything else is atomic or locked.
unsafe impl Sync for ArchVcpu {}

impl ArchVcpu {
    /// vCPU `index`, as after reset.
    pub fn new(index: u16) -> Self {
        let index = u64::from(index);
        Self {
            regs: UnsafeCell::new(GuestRegs::default()),
            context: UnsafeCell::new(El1Context::reset()),
            fp: UnsafeCell::new(FpContext::default()),
            vmpidr: 1 << 31 | (index >> 4) << 8 | (index & 0xf),
        }
    }

    /// The registers, for the world switch.
    #[inline(always)]
    pub fn regs_ptr(&self) -> *mut GuestRegs {
        self.regs.get()
    }

    /// The EL1 context, for load and save.
    #[inline(always)]
    pub fn context_ptr(&self) -> *mut El1Context {
        self.context.get()
    }

    /// The floating-point context, for load and save.
    #[inline(always)]
    pub fn fp_ptr(&self) -> *mut FpContext {
        self.fp.get()
    }

    /// Whether an interrupt waits that the guest would take.
    pub fn has_deliverable_interrupt(&self) -> bool {
        false
    }
}

/// The architecture's part of a domain.
pub struct ArchDomain {}

impl ArchDomain {
    /// Marks the event interrupt of a vCPU pending.
    pub fn raise_upcall(&self, _: &ArchVcpu) {}

    /// Gives back what the domain holds of the machine.
    pub fn release(&self) {}
}
