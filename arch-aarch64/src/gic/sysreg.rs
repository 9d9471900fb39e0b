//! The `ICC_*` and `ICH_*` system registers (ARM IHI 0069, chapter 12), one function per access.
//!
//! On a host build there is no such register; reads give 0 and writes go nowhere, so that the logic around them
//! compiles and can be tested there.
#![allow(unsafe_code)]

macro_rules! readable {
    ($($(#[$doc:meta])* $name:ident = $reg:literal;)*) => {$(
        $(#[$doc])*
        #[inline(always)]
        #[must_use]
        pub fn $name() -> u64 {
            #[cfg(target_arch = "aarch64")]
            {
                let value: u64;
                // SAFETY: reads a GIC system register; at EL2 with ICC_SRE_EL2.SRE set this neither traps nor
                // touches memory. An acknowledge changes only the interrupt controller.
                unsafe {
                    core::arch::asm!(concat!("mrs {}, ", $reg), out(reg) value, options(nostack, preserves_flags));
                }
                value
            }
            #[cfg(not(target_arch = "aarch64"))]
            0
        }
    )*};
}

macro_rules! writable {
    ($($(#[$doc:meta])* $name:ident = $reg:literal;)*) => {$(
        $(#[$doc])*
        #[inline(always)]
        pub fn $name(value: u64) {
            #[cfg(target_arch = "aarch64")]
            // SAFETY: writes a GIC system register, which changes the interrupt controller and no memory.
            unsafe {
                core::arch::asm!(concat!("msr ", $reg, ", {}"), in(reg) value, options(nostack, preserves_flags));
            }
            #[cfg(not(target_arch = "aarch64"))]
            let _ = value;
        }
    )*};
}

readable! {
    /// System register access control at EL2.
    icc_sre_el2 = "S3_4_C12_C9_5";
    /// Acknowledges the highest-priority pending group 1 interrupt.
    icc_iar1 = "S3_0_C12_C12_0";
    /// Tells the highest-priority pending group 1 interrupt without acknowledging it.
    icc_hppir1 = "S3_0_C12_C12_2";
    /// CPU interface control.
    icc_ctlr = "S3_0_C12_C12_4";
    /// Hypervisor control.
    ich_hcr = "S3_4_C12_C11_0";
    /// What the hypervisor interface has.
    ich_vtr = "S3_4_C12_C11_1";
    /// Why a maintenance interrupt is asserted.
    ich_misr = "S3_4_C12_C11_2";
    /// Which list registers are empty.
    ich_elrsr = "S3_4_C12_C11_5";
    /// The guest's view of its CPU interface.
    ich_vmcr = "S3_4_C12_C11_7";
}

writable! {
    /// System register access control at EL1.
    set_icc_sre_el1 = "S3_0_C12_C12_5";
    /// System register access control at EL2.
    set_icc_sre_el2 = "S3_4_C12_C9_5";
    /// Priority drop of a group 1 interrupt.
    set_icc_eoir1 = "S3_0_C12_C12_1";
    /// Deactivation.
    set_icc_dir = "S3_0_C12_C11_1";
    /// CPU interface control.
    set_icc_ctlr = "S3_0_C12_C12_4";
    /// Priority mask.
    set_icc_pmr = "S3_0_C4_C6_0";
    /// Binary point of group 1.
    set_icc_bpr1 = "S3_0_C12_C12_3";
    /// Enables group 1.
    set_icc_igrpen1 = "S3_0_C12_C12_7";
    /// Sends a software generated interrupt.
    set_icc_sgi1r = "S3_0_C12_C11_5";
    /// Hypervisor control.
    set_ich_hcr = "S3_4_C12_C11_0";
    /// The guest's view of its CPU interface.
    set_ich_vmcr = "S3_4_C12_C11_7";
}

macro_rules! numbered {
    ($(#[$doc:meta])* $get:ident, $(#[$sdoc:meta])* $set:ident, $last:literal, $($n:literal = $reg:literal),*) => {
        $(#[$doc])*
        #[inline(always)]
        #[must_use]
        pub fn $get(n: usize) -> u64 {
            #[cfg(target_arch = "aarch64")]
            {
                let value: u64;
                // SAFETY: reads one register of the hypervisor interface; the index is reduced to those that exist
                // in the encoding and callers keep it below what `ICH_VTR_EL2` reports.
                unsafe {
                    match n & $last {
                        $($n => core::arch::asm!(concat!("mrs {}, ", $reg), out(reg) value, options(nostack, preserves_flags)),)*
                        _ => value = 0,
                    }
                }
                value
            }
            #[cfg(not(target_arch = "aarch64"))]
            {
                let _ = n;
                0
            }
        }

        $(#[$sdoc])*
        #[inline(always)]
        pub fn $set(n: usize, value: u64) {
            #[cfg(target_arch = "aarch64")]
            // SAFETY: as for reading; a list register changes only what the guest's CPU interface presents.
            unsafe {
                match n & $last {
                    $($n => core::arch::asm!(concat!("msr ", $reg, ", {}"), in(reg) value, options(nostack, preserves_flags)),)*
                    _ => {}
                }
            }
            #[cfg(not(target_arch = "aarch64"))]
            let _ = (n, value);
        }
    };
}

numbered! {
    /// List register `n`.
    ich_lr,
    /// Writes list register `n`.
    set_ich_lr,
    15,
    0 = "S3_4_C12_C12_0", 1 = "S3_4_C12_C12_1", 2 = "S3_4_C12_C12_2", 3 = "S3_4_C12_C12_3",
    4 = "S3_4_C12_C12_4", 5 = "S3_4_C12_C12_5", 6 = "S3_4_C12_C12_6", 7 = "S3_4_C12_C12_7",
    8 = "S3_4_C12_C13_0", 9 = "S3_4_C12_C13_1", 10 = "S3_4_C12_C13_2", 11 = "S3_4_C12_C13_3",
    12 = "S3_4_C12_C13_4", 13 = "S3_4_C12_C13_5", 14 = "S3_4_C12_C13_6", 15 = "S3_4_C12_C13_7"
}

numbered! {
    /// Active priorities of group 0, word `n`.
    ich_ap0r,
    /// Writes active priorities of group 0, word `n`.
    set_ich_ap0r,
    3,
    0 = "S3_4_C12_C8_0", 1 = "S3_4_C12_C8_1", 2 = "S3_4_C12_C8_2", 3 = "S3_4_C12_C8_3"
}

numbered! {
    /// Active priorities of group 1, word `n`.
    ich_ap1r,
    /// Writes active priorities of group 1, word `n`.
    set_ich_ap1r,
    3,
    0 = "S3_4_C12_C9_0", 1 = "S3_4_C12_C9_1", 2 = "S3_4_C12_C9_2", 3 = "S3_4_C12_C9_3"
}

/// Makes what was written to GIC system registers take effect before what follows.
#[inline(always)]
pub fn isb() {
    #[cfg(target_arch = "aarch64")]
    // SAFETY: a barrier.
    unsafe {
        core::arch::asm!("isb", options(nostack, preserves_flags));
    }
}

/// Makes earlier writes to memory visible to the other CPUs before what follows (before a software interrupt).
#[inline(always)]
pub fn dsb_ishst() {
    #[cfg(target_arch = "aarch64")]
    // SAFETY: a barrier.
    unsafe {
        core::arch::asm!("dsb ishst", options(nostack, preserves_flags));
    }
}

/// Makes earlier accesses, device accesses among them, complete before what follows.
#[inline(always)]
pub fn dsb_sy() {
    #[cfg(target_arch = "aarch64")]
    // SAFETY: a barrier.
    unsafe {
        core::arch::asm!("dsb sy", options(nostack, preserves_flags));
    }
}
