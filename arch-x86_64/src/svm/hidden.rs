//! The part of a guest's state that VMRUN leaves alone: FS, GS, TR, LDTR with their hidden parts, the system-call registers
//! (AMD APM, volume 2, 15.5.2).
//!
//! From a vCPU's load to its save it is in the CPU, also while the hypervisor serves an exit; the control block has an old
//! copy, which VMSAVE renews before anything reads it. So an exit costs neither VMLOAD nor VMSAVE. The hypervisor makes no
//! use of these registers meanwhile: it finds its data by another way, never changes its privilege, and takes no interrupt
//! on a stack that the task state names ([`crate::cpu::vectors::Stacks`]): the task state is the guest's.

use core::cell::Cell;

use xenolith_hal::HostPhys;

use super::vmcb::{Save, Vmcb};

/// Where the newest copy of the part is.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Place {
    /// Physical address of the control block while the part is in the CPU; 0 when it is in the block.
    block: Cell<u64>,
}

/// Fills registers from a block.
///
/// # Safety
/// `block` is the physical address of a control block whose hidden part is valid, SVM is on, and nothing of the hypervisor
/// needs the registers from now on.
pub(super) unsafe fn load(block: HostPhys) {
    #[cfg(target_os = "none")]
    // SAFETY: as the caller promises; the instruction reads memory and writes only registers that nothing else uses.
    unsafe {
        core::arch::asm!("vmload rax", in("rax") block.0, options(nostack, preserves_flags));
    }
    let _ = block;
}

/// Writes registers to a block.
///
/// # Safety
/// `block` is the physical address of a control block that the caller may write to; SVM is on.
pub(super) unsafe fn store(block: HostPhys) {
    #[cfg(target_os = "none")]
    // SAFETY: as the caller promises.
    unsafe {
        core::arch::asm!("vmsave rax", in("rax") block.0, options(nostack, preserves_flags));
    }
    let _ = block;
}

impl Vmcb {
    /// The vCPU's part goes to the CPU.
    ///
    /// # Safety
    /// As [`load`]; `at` is this block's own address. The vCPU stays on this CPU until [`Vmcb::give_back`].
    #[cfg(target_os = "none")]
    pub(super) unsafe fn take(&mut self, at: HostPhys) {
        // SAFETY: as the caller promises.
        unsafe { load(at) }
        self.control.hidden.block.set(at.0);
    }

    /// The part comes back from the CPU, which keeps what nobody needs any more.
    #[cfg(target_os = "none")]
    pub(super) fn give_back(&mut self) {
        self.renew();
        self.control.hidden.block.set(0);
    }

    fn renew(&self) {
        let block = self.control.hidden.block.get();
        if block != 0 {
            // SAFETY: `take` stored the address of this block. What VMSAVE writes there are cells.
            unsafe { store(HostPhys(block)) }
        }
    }

    /// The newest copy, to be read.
    pub(super) fn hidden(&self) -> &Save {
        self.renew();
        &self.save
    }

    /// Changes the part, wherever it is.
    pub(super) fn change_hidden(&mut self, change: impl FnOnce(&mut Save)) {
        self.renew();
        change(&mut self.save);
        let block = self.control.hidden.block.get();
        if block != 0 {
            // SAFETY: the part was in the CPU already, by `take`.
            unsafe { load(HostPhys(block)) }
        }
    }
}
