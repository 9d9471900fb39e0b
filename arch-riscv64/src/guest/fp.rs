//! Floating-point registers, loaded at a vCPU's first use and saved when it leaves the CPU.
//!
//! The hypervisor is built without them, so they keep a guest's values across any number of exits. While a vCPU that has not
//! used them is loaded, `sstatus.FS` of HS-mode is off and the first use traps (Privileged Architecture, "Hypervisor Status").

use core::arch::asm;

use super::regs::FS;

/// f0 to f31, and fcsr.
#[repr(C)]
#[derive(Clone, Default)]
pub struct FpContext {
    f: [u64; 32],
    fcsr: u64,
}

impl FpContext {
    /// Stores this CPU's registers.
    pub fn save(&mut self) {
        let base = core::ptr::from_mut(self);
        // SAFETY: stores exactly the 33 words of the context; the registers hold guest values and are not changed. HS-mode
        // may touch them meanwhile.
        unsafe {
            asm!(
                ".option push", ".option arch, +d",
                "csrs sstatus, {fs}",
                "fsd f0, 0({b})", "fsd f1, 8({b})", "fsd f2, 16({b})", "fsd f3, 24({b})",
                "fsd f4, 32({b})", "fsd f5, 40({b})", "fsd f6, 48({b})", "fsd f7, 56({b})",
                "fsd f8, 64({b})", "fsd f9, 72({b})", "fsd f10, 80({b})", "fsd f11, 88({b})",
                "fsd f12, 96({b})", "fsd f13, 104({b})", "fsd f14, 112({b})", "fsd f15, 120({b})",
                "fsd f16, 128({b})", "fsd f17, 136({b})", "fsd f18, 144({b})", "fsd f19, 152({b})",
                "fsd f20, 160({b})", "fsd f21, 168({b})", "fsd f22, 176({b})", "fsd f23, 184({b})",
                "fsd f24, 192({b})", "fsd f25, 200({b})", "fsd f26, 208({b})", "fsd f27, 216({b})",
                "fsd f28, 224({b})", "fsd f29, 232({b})", "fsd f30, 240({b})", "fsd f31, 248({b})",
                "frcsr {w}", "sd {w}, 256({b})",
                "csrc sstatus, {fs}",
                ".option pop",
                fs = in(reg) FS, b = in(reg) base, w = out(reg) _, options(nostack),
            );
        }
    }

    /// Loads this CPU's registers.
    pub fn load(&self) {
        let base = core::ptr::from_ref(self);
        // SAFETY: reads exactly the 33 words of the context; the hypervisor's code uses none of the registers. HS-mode may
        // touch them meanwhile.
        unsafe {
            asm!(
                ".option push", ".option arch, +d",
                "csrs sstatus, {fs}",
                "fld f0, 0({b})", "fld f1, 8({b})", "fld f2, 16({b})", "fld f3, 24({b})",
                "fld f4, 32({b})", "fld f5, 40({b})", "fld f6, 48({b})", "fld f7, 56({b})",
                "fld f8, 64({b})", "fld f9, 72({b})", "fld f10, 80({b})", "fld f11, 88({b})",
                "fld f12, 96({b})", "fld f13, 104({b})", "fld f14, 112({b})", "fld f15, 120({b})",
                "fld f16, 128({b})", "fld f17, 136({b})", "fld f18, 144({b})", "fld f19, 152({b})",
                "fld f20, 160({b})", "fld f21, 168({b})", "fld f22, 176({b})", "fld f23, 184({b})",
                "fld f24, 192({b})", "fld f25, 200({b})", "fld f26, 208({b})", "fld f27, 216({b})",
                "fld f28, 224({b})", "fld f29, 232({b})", "fld f30, 240({b})", "fld f31, 248({b})",
                "ld {w}, 256({b})", "fscsr {w}",
                "csrc sstatus, {fs}",
                ".option pop",
                fs = in(reg) FS, b = in(reg) base, w = out(reg) _, options(nostack, readonly),
            );
        }
    }
}
