//! Machine-wide operations of the control domain's kernel.
//!
//! Header: `platform.h`. All share one struct with a version; ARM knows only `Settime64`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Version of the struct; another one is answered with `EACCES`.
pub const INTERFACE_VERSION: u32 = 0x0300_0001;

wire_enum! {
    /// A sub-operation of `platform_op`, named as in the header.
    #[expect(missing_docs, reason = "numbers only; the layouts will say what each does")]
    pub enum PlatformOp: u32, unknown is ENOSYS {
        Settime32 = 17,
        AddMemtype = 31,
        DelMemtype = 32,
        ReadMemtype = 33,
        MicrocodeUpdate = 35,
        PlatformQuirk = 39,
        GetCpuVersion = 48,
        EfiRuntimeCall = 49,
        FirmwareInfo = 50,
        EnterAcpiSleep = 51,
        ChangeFreq = 52,
        GetIdleTime = 53,
        SetProcessorPminfo = 54,
        GetCpuInfo = 55,
        CpuOnline = 56,
        CpuOffline = 57,
        CpuHotadd = 58,
        MemHotadd = 59,
        CoreParking = 60,
        ResourceOp = 61,
        Settime64 = 62,
        GetSymbol = 63,
    }
}

/// The one argument of the call (`xen_platform_op`).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PlatformOpArg {
    /// In: a number of [`PlatformOp`].
    pub cmd: u32,
    /// In: [`INTERFACE_VERSION`].
    pub interface_version: u32,
    /// In and out: the struct of that sub-operation.
    pub body: [u64; 16],
}

/// Argument of [`PlatformOp::Settime64`] (`xenpf_settime64`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Settime64 {
    /// In: seconds since 1970 that the clock reads at `system_time`.
    pub secs: u64,
    /// In: nanoseconds that go with them.
    pub nsecs: u32,
    /// In: must be zero.
    pub mbz: u32,
    /// In: nanoseconds since boot.
    pub system_time: u64,
}

/// Argument of [`PlatformOp::EnterAcpiSleep`] (`xenpf_enter_acpi_sleep`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct EnterAcpiSleep {
    /// In: value for the first PM1 control register.
    pub val_a: u16,
    /// In: value for the second.
    pub val_b: u16,
    /// In: which sleep state: 5 is soft-off.
    pub sleep_state: u32,
    /// In: bit 0: extended registers are used.
    pub flags: u32,
}

wire_enum! {
    /// What [`FirmwareInfo`] asks for (`XEN_FW_*`).
    pub enum FirmwareKind: u32, unknown is EINVAL {
        /// A disk, by the BIOS.
        DiskInfo = 1,
        /// The signature of its first sector.
        DiskMbrSignature = 2,
        /// What the screen says of itself.
        VbeDdcInfo = 3,
        /// What EFI firmware left.
        EfiInfo = 4,
        /// The shift keys of the keyboard.
        KbdShiftFlags = 5,
    }
}

/// Argument of [`PlatformOp::FirmwareInfo`] (`xenpf_firmware_info`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FirmwareInfo {
    /// In: a number of [`FirmwareKind`].
    pub kind: u32,
    /// In: which of them.
    pub index: u32,
    /// Out: what is known of it.
    pub body: [u64; 4],
}

/// [`PcpuInfo::flags`]: the CPU runs.
pub const PCPU_FLAGS_ONLINE: u32 = 1;
/// [`PcpuInfo::flags`]: there is no such CPU.
pub const PCPU_FLAGS_INVALID: u32 = 2;

/// Argument of [`PlatformOp::GetCpuInfo`] (`xenpf_pcpuinfo`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PcpuInfo {
    /// In: the hypervisor's number of a CPU.
    pub xen_cpuid: u32,
    /// Out: the highest number that there is.
    pub max_present: u32,
    /// Out: [`PCPU_FLAGS_ONLINE`] or [`PCPU_FLAGS_INVALID`].
    pub flags: u32,
    /// Out: its APIC number.
    pub apic_id: u32,
    /// Out: its number in ACPI's tables.
    pub acpi_id: u32,
}

/// Argument of [`PlatformOp::GetCpuVersion`] (`xenpf_pcpu_version`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PcpuVersion {
    /// In: the hypervisor's number of a CPU.
    pub xen_cpuid: u32,
    /// Out: the highest number that there is.
    pub max_present: u32,
    /// Out: who made it.
    pub vendor_id: [u8; 12],
    /// Out: its family.
    pub family: u32,
    /// Out: its model.
    pub model: u32,
    /// Out: its stepping.
    pub stepping: u32,
}

/// Argument of [`PlatformOp::CpuOnline`] and [`PlatformOp::CpuOffline`] (`xenpf_cpu_ol`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CpuOnline {
    /// In: the hypervisor's number of a CPU.
    pub cpuid: u32,
}

/// [`CoreParking::kind`]: so many CPUs shall rest.
pub const CORE_PARKING_SET: u32 = 1;
/// [`CoreParking::kind`]: how many do.
pub const CORE_PARKING_GET: u32 = 2;

/// Argument of [`PlatformOp::CoreParking`] (`xenpf_core_parking`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CoreParking {
    /// In: [`CORE_PARKING_SET`] or [`CORE_PARKING_GET`].
    pub kind: u32,
    /// In or out: how many.
    pub idle_nums: u32,
}

/// Argument of [`PlatformOp::PlatformQuirk`] (`xenpf_platform_quirk`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PlatformQuirk {
    /// In: which; 1 to 3 are known.
    pub quirk_id: u32,
}

/// Argument of [`PlatformOp::Settime32`] (`xenpf_settime32`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Settime32 {
    /// In: seconds since 1970 that the clock reads at `system_time`.
    pub secs: u32,
    /// In: nanoseconds that go with them.
    pub nsecs: u32,
    /// In: nanoseconds since boot.
    pub system_time: u64,
}
