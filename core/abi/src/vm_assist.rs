//! Optional behaviours that a guest switches on and off.
//!
//! Header: `xen.h` (`VMASST_*`). The call takes a command and a type; both come in registers.

wire_enum! {
    /// A command of `vm_assist`.
    pub enum AssistCommand: u32, unknown is ENOSYS {
        /// Switch on.
        Enable = 0,
        /// Switch off.
        Disable = 1,
    }
}

wire_enum! {
    /// A behaviour.
    pub enum Assist: u32, unknown is EINVAL {
        /// x86-32 PV: pretend that segments reach to 4 GiB.
        FourGbSegments = 0,
        /// x86-32 PV: trap when that had to be done.
        FourGbSegmentsNotify = 1,
        /// x86 PV: let the guest write its leaf page tables.
        WritablePagetables = 2,
        /// x86-32 PV: page-directory pointers above 4 GiB.
        PaeExtendedCr3 = 3,
        /// x86 PV: I/O privilege as on a bare machine.
        ArchitecturalIopl = 4,
        /// All: mark an update of the runstate copy while it is under way.
        RunstateUpdateFlag = 5,
        /// x86-64 PV: hide the machine-to-physical table from user mode.
        M2pStrict = 32,
    }
}

impl Assist {
    /// The behaviour in a set of them.
    #[must_use]
    pub const fn bit(self) -> u64 {
        1 << self.number()
    }
}
