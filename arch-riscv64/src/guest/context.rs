//! The VS-mode control registers of a vCPU that is not loaded on any CPU.

use crate::cpu::regs::{read, write};

macro_rules! context {
    ($($(#[$doc:meta])* $field:ident = $name:literal,)*) => {
        /// VS-mode registers, and those of S-mode that HS-mode shares with it, saved when the vCPU leaves a CPU and written
        /// when it comes to one.
        #[derive(Clone, Default)]
        pub struct VsContext {
            $($(#[$doc])* pub $field: u64,)*
        }

        impl VsContext {
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
    /// Status.
    vsstatus = "vsstatus",
    /// Interrupts that are enabled.
    vsie = "vsie",
    /// Trap vector.
    vstvec = "vstvec",
    /// Scratch register of traps.
    vsscratch = "vsscratch",
    /// Where a trap came from.
    vsepc = "vsepc",
    /// Why it came.
    vscause = "vscause",
    /// Its address or instruction.
    vstval = "vstval",
    /// Address translation.
    vsatp = "vsatp",
    /// Interrupts that the hypervisor makes pending.
    hvip = "hvip",
    /// Counters that VU-mode may read.
    scounteren = "scounteren",
    /// Environment of VU-mode.
    senvcfg = "senvcfg",
}

impl VsContext {
    /// What a hart starts with. Its user mode may read `time`, as firmware lets it: kernels read it there and do not ask for it.
    #[must_use]
    pub fn started() -> Self {
        const TIME: u64 = 1 << 1;
        Self {
            scounteren: TIME,
            ..Self::default()
        }
    }
}
