//! The EL1 system registers of a vCPU that is not loaded on any CPU.

use crate::cpu::regs::{read, write};

macro_rules! context {
    ($($(#[$doc:meta])* $field:ident = $name:literal,)*) => {
        /// EL1 and EL0 system registers, saved when the vCPU leaves a CPU and written when it comes to one.
        #[derive(Clone, Default)]
        pub struct El1Context {
            $($(#[$doc])* pub $field: u64,)*
        }

        impl El1Context {
            /// Reads the registers of this CPU.
            pub fn save(&mut self) {
                $(self.$field = read!($name);)*
            }

            /// Writes the registers of this CPU.
            pub fn load(&self) {
                $(write!($name, self.$field);)*
            }
        }
    };
}

context! {
    /// Stack pointer of EL0.
    sp_el0 = "sp_el0",
    /// Stack pointer of EL1.
    sp_el1 = "sp_el1",
    /// Thread pointer of EL0.
    tpidr_el0 = "tpidr_el0",
    /// Read-only thread pointer of EL0.
    tpidrro_el0 = "tpidrro_el0",
    /// Thread pointer of EL1.
    tpidr_el1 = "tpidr_el1",
    /// Return address of EL1's exceptions.
    elr_el1 = "elr_el1",
    /// Saved state of EL1's exceptions.
    spsr_el1 = "spsr_el1",
    /// Syndrome.
    esr_el1 = "esr_el1",
    /// Fault address.
    far_el1 = "far_el1",
    /// Auxiliary fault status.
    afsr0_el1 = "afsr0_el1",
    /// Auxiliary fault status.
    afsr1_el1 = "afsr1_el1",
    /// Vector base.
    vbar_el1 = "vbar_el1",
    /// Context number.
    contextidr_el1 = "contextidr_el1",
    /// Translation control.
    tcr_el1 = "tcr_el1",
    /// Translation table of low addresses.
    ttbr0_el1 = "ttbr0_el1",
    /// Translation table of high addresses.
    ttbr1_el1 = "ttbr1_el1",
    /// Memory attributes.
    mair_el1 = "mair_el1",
    /// Auxiliary memory attributes.
    amair_el1 = "amair_el1",
    /// System control.
    sctlr_el1 = "sctlr_el1",
    /// Access to floating point and others.
    cpacr_el1 = "cpacr_el1",
    /// Result of the last address translation instruction.
    par_el1 = "par_el1",
    /// Cache size selection.
    csselr_el1 = "csselr_el1",
    /// EL0's access to counters and timers.
    cntkctl_el1 = "cntkctl_el1",
    /// Virtual timer's deadline.
    cntv_cval = "cntv_cval_el0",
    /// Virtual timer's control.
    cntv_ctl = "cntv_ctl_el0",
}

impl El1Context {
    /// As after reset: MMU and caches off.
    pub fn reset() -> Self {
        Self {
            sctlr_el1: 0x30d0_0800,
            ..Self::default()
        }
    }
}
