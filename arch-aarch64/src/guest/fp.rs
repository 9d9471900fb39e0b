//! Floating-point and SIMD registers, loaded at a vCPU's first use and saved when it leaves the CPU.
//!
//! The hypervisor is built without these registers, so they keep a guest's values across any number of exits. While a
//! vCPU that has not used them is loaded, CPTR_EL2.TFP traps the first use.

use core::arch::asm;

use crate::cpu::regs::{isb, write};

/// CPTR_EL2 for non-VHE: RES1 bits, among them TZ and TSM, which trap SVE and SME where the CPU has them (their state
/// is not switched); TTA traps trace registers, TAM activity monitors. TFP traps floating point.
const CPTR_GUEST: u64 = 0x33ff | 1 << 20 | 1 << 30;
const CPTR_TFP: u64 = 1 << 10;

/// v0 to v31, FPSR and FPCR.
#[repr(C, align(16))]
#[derive(Default)]
pub struct FpContext {
    v: [u128; 32],
    fpsr: u64,
    fpcr: u64,
}

/// Makes the next use of floating point by the guest trap.
pub fn trap() {
    write!("cptr_el2", CPTR_GUEST | CPTR_TFP);
}

/// Lets the guest use floating point.
pub fn allow() {
    write!("cptr_el2", CPTR_GUEST);
    isb();
}

impl FpContext {
    /// Stores this CPU's registers. Traps to EL2 must be off.
    pub fn save(&mut self) {
        let base = self.v.as_mut_ptr();
        // SAFETY: stores exactly the 512 bytes of `v`; the registers hold guest values and are not changed.
        unsafe {
            asm!(
                ".arch_extension fp",
                ".arch_extension simd",
                "stp q0, q1, [{b}, #0]", "stp q2, q3, [{b}, #32]",
                "stp q4, q5, [{b}, #64]", "stp q6, q7, [{b}, #96]",
                "stp q8, q9, [{b}, #128]", "stp q10, q11, [{b}, #160]",
                "stp q12, q13, [{b}, #192]", "stp q14, q15, [{b}, #224]",
                "stp q16, q17, [{b}, #256]", "stp q18, q19, [{b}, #288]",
                "stp q20, q21, [{b}, #320]", "stp q22, q23, [{b}, #352]",
                "stp q24, q25, [{b}, #384]", "stp q26, q27, [{b}, #416]",
                "stp q28, q29, [{b}, #448]", "stp q30, q31, [{b}, #480]",
                b = in(reg) base, options(nostack),
            );
        }
        self.fpsr = crate::cpu::regs::read!("S3_3_C4_C4_1");
        self.fpcr = crate::cpu::regs::read!("S3_3_C4_C4_0");
    }

    /// Loads this CPU's registers. Traps to EL2 must be off.
    pub fn load(&self) {
        let base = self.v.as_ptr();
        // SAFETY: reads exactly the 512 bytes of `v`; the hypervisor's code uses none of the registers.
        unsafe {
            asm!(
                ".arch_extension fp",
                ".arch_extension simd",
                "ldp q0, q1, [{b}, #0]", "ldp q2, q3, [{b}, #32]",
                "ldp q4, q5, [{b}, #64]", "ldp q6, q7, [{b}, #96]",
                "ldp q8, q9, [{b}, #128]", "ldp q10, q11, [{b}, #160]",
                "ldp q12, q13, [{b}, #192]", "ldp q14, q15, [{b}, #224]",
                "ldp q16, q17, [{b}, #256]", "ldp q18, q19, [{b}, #288]",
                "ldp q20, q21, [{b}, #320]", "ldp q22, q23, [{b}, #352]",
                "ldp q24, q25, [{b}, #384]", "ldp q26, q27, [{b}, #416]",
                "ldp q28, q29, [{b}, #448]", "ldp q30, q31, [{b}, #480]",
                b = in(reg) base, options(nostack, readonly),
            );
        }
        write!("S3_3_C4_C4_1", self.fpsr);
        write!("S3_3_C4_C4_0", self.fpcr);
    }
}
