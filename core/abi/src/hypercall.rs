//! The numbers of the hypercalls.
//!
//! Header: `xen.h` (`__HYPERVISOR_*`). The number arrives in `x16` on AArch64 and in `rax` on x86-64.
//! Names that the header calls `_compat` are the forms from before interface version 0x00030202.

wire_enum! {
    /// A hypercall. An unknown number is answered with `ENOSYS`.
    pub enum Nr: u64, unknown is ENOSYS {
        /// Sets the virtual IDT of a PV guest.
        SetTrapTable = 0,
        /// Updates page-table entries of a PV guest.
        MmuUpdate = 1,
        /// Sets the GDT frames of a PV guest.
        SetGdt = 2,
        /// Sets the kernel stack of a PV guest.
        StackSwitch = 3,
        /// Sets the entry points of a PV guest (old form).
        SetCallbacks = 4,
        /// Sets or clears the task-switched flag of a PV guest.
        FpuTaskswitch = 5,
        /// Scheduler call before 0x00030101.
        SchedOpCompat = 6,
        /// Machine-wide operations of the control domain.
        PlatformOp = 7,
        /// Writes a debug register of a PV guest.
        SetDebugreg = 8,
        /// Reads a debug register of a PV guest.
        GetDebugreg = 9,
        /// Updates one segment descriptor of a PV guest.
        UpdateDescriptor = 10,
        /// Memory reservation and physical-map operations.
        MemoryOp = 12,
        /// Several calls in one.
        Multicall = 13,
        /// Updates the entry that maps one address of a PV guest.
        UpdateVaMapping = 14,
        /// Sets the one-shot timer (old form).
        SetTimerOp = 15,
        /// Event-channel call before 0x00030202.
        EventChannelOpCompat = 16,
        /// Asks for version, features and build data.
        XenVersion = 17,
        /// Reads and writes the emergency console.
        ConsoleIo = 18,
        /// Physical-device call before 0x00030202.
        PhysdevOpCompat = 19,
        /// Grant tables.
        GrantTableOp = 20,
        /// Switches optional behaviours on and off.
        VmAssist = 21,
        /// As `UpdateVaMapping`, for a page of another domain.
        UpdateVaMappingOtherdomain = 22,
        /// Returns from an upcall of a PV guest.
        Iret = 23,
        /// Operations on one vCPU of the caller.
        VcpuOp = 24,
        /// Sets a segment base of a PV guest.
        SetSegmentBase = 25,
        /// Pinning, base pointers, TLB and cache of a PV guest.
        MmuextOp = 26,
        /// Security-module policy.
        XsmOp = 27,
        /// Registers the NMI entry of a PV guest.
        NmiOp = 28,
        /// Yield, block, shut down, poll.
        SchedOp = 29,
        /// Registers entry points of a PV guest.
        CallbackOp = 30,
        /// Profiling (OProfile).
        XenoprofOp = 31,
        /// Event channels.
        EventChannelOp = 32,
        /// Physical interrupts and PCI devices of a driver domain.
        PhysdevOp = 33,
        /// Parameters and state of translated guests.
        HvmOp = 34,
        /// Machine-wide control, for tools.
        Sysctl = 35,
        /// Domain control, for tools.
        Domctl = 36,
        /// Crash-kernel hand-over.
        KexecOp = 37,
        /// Transcendent memory (gone since 4.13).
        TmemOp = 38,
        /// Messages between domains (Argo).
        ArgoOp = 39,
        /// Performance counters.
        XenpmuOp = 40,
        /// Device-model operations.
        DmOp = 41,
        /// The hypervisor's configuration tree.
        HypfsOp = 42,
        /// Architecture call 0: machine checks on x86.
        Arch0 = 48,
        /// Architecture call 1: paging control on x86.
        Arch1 = 49,
        /// Architecture call 2.
        Arch2 = 50,
        /// Architecture call 3.
        Arch3 = 51,
        /// Architecture call 4.
        Arch4 = 52,
        /// Architecture call 5.
        Arch5 = 53,
        /// Architecture call 6.
        Arch6 = 54,
        /// Architecture call 7.
        Arch7 = 55,
    }
}
