//! Control of the machine by tools: numbers only.
//!
//! Header: `sysctl.h`. Its structs are locked to [`INTERFACE_VERSION`], so each release gets a codec module of
//! its own; the list of numbers only grows.

/// Version of the layouts; another in the caller's struct is answered with `EACCES`.
pub const INTERFACE_VERSION: u32 = 0x15;

wire_enum! {
    /// A sub-operation of `sysctl`, named as in the header.
    #[expect(missing_docs, reason = "numbers only; the layouts will say what each does")]
    pub enum SysctlOp: u32, unknown is ENOSYS {
        ReadConsole = 1,
        TbufOp = 2,
        PhysInfo = 3,
        SchedId = 4,
        PerfcOp = 5,
        GetDomainInfoList = 6,
        DebugKeys = 7,
        GetCpuInfo = 8,
        AvailHeap = 9,
        GetPmstat = 10,
        CpuHotplug = 11,
        PmOp = 12,
        PageOfflineOp = 14,
        LockprofOp = 15,
        CpuTopoInfo = 16,
        NumaInfo = 17,
        CpupoolOp = 18,
        SchedulerOp = 19,
        CoverageOp = 20,
        PsrCmtOp = 21,
        PciTopoInfo = 22,
        PsrAlloc = 23,
        GetCpuLevellingCaps = 25,
        GetCpuFeatureset = 26,
        LivepatchOp = 27,
        GetCpuPolicy = 29,
    }
}
