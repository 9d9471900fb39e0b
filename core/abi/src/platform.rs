//! Machine-wide operations of the control domain's kernel.
//!
//! Header: `platform.h`. All share one struct with a version; ARM knows only `Settime64`.

use crate::handle::GuestHandle;
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

/// Argument of [`PlatformOp::MicrocodeUpdate`] (`xenpf_microcode_update`).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MicrocodeUpdate {
    /// In: the file.
    pub data: GuestHandle<u8>,
    /// In: its bytes.
    pub length: u32,
    #[doc(hidden)]
    pub pad: u32,
}

/// [`ResourceEntry::cmd`]: reads a register.
pub const RESOURCE_MSR_READ: u32 = 0;
/// [`ResourceEntry::cmd`]: writes one.
pub const RESOURCE_MSR_WRITE: u32 = 1;

/// One step of [`ResourceOp`] (`xenpf_resource_entry`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ResourceEntry {
    /// In: what is done. Out, of the one that failed: why.
    pub cmd: u32,
    /// In: must be zero.
    pub rsvd: u32,
    /// In: the register.
    pub idx: u64,
    /// In or out: its value.
    pub val: u64,
}

/// Argument of [`PlatformOp::ResourceOp`] (`xenpf_resource_op`).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ResourceOp {
    /// In: how many steps.
    pub nr_entries: u32,
    /// In: on which CPU.
    pub cpu: u32,
    /// In and out: the steps.
    pub entries: GuestHandle<ResourceEntry>,
}

/// Argument of [`PlatformOp::GetSymbol`] (`xenpf_symdata`).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SymbolData {
    /// In: room for the name. Out: its length.
    pub namelen: u32,
    /// In: which symbol. Out: the next one.
    pub symnum: u32,
    /// Out: the name.
    pub name: GuestHandle<u8>,
    /// Out: where it is.
    pub address: u64,
    /// Out: its kind.
    pub kind: u8,
    #[doc(hidden)]
    pub pad: [u8; 7],
}

/// Argument of [`PlatformOp::ReadMemtype`] (`xenpf_read_memtype`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ReadMemtype {
    /// In: which range.
    pub reg: u32,
    #[doc(hidden)]
    pub pad: u32,
    /// Out: its first frame.
    pub mfn: u64,
    /// Out: how many.
    pub nr_mfns: u64,
    /// Out: how they are cached.
    pub kind: u32,
    #[doc(hidden)]
    pub pad_2: u32,
}

/// Argument of [`PlatformOp::DelMemtype`] (`xenpf_del_memtype`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct DelMemtype {
    /// In: must be zero.
    pub handle: u32,
    /// In: which range.
    pub reg: u32,
}

/// Argument of [`PlatformOp::AddMemtype`] (`xenpf_add_memtype`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct AddMemtype {
    /// In: the first frame.
    pub mfn: u64,
    /// In: how many.
    pub nr_mfns: u64,
    /// In: how they shall be cached.
    pub kind: u32,
    /// Out: zero.
    pub handle: u32,
    /// Out: which range it became.
    pub reg: u32,
    #[doc(hidden)]
    pub pad: u32,
}

wire_enum! {
    /// What [`PlatformOp::SetProcessorPminfo`] tells of (`XEN_PM_*`).
    pub enum PowerInfoKind: u32, unknown is EINVAL {
        /// Idle states: [`IdleStates`].
        Cx = 0,
        /// Performance states: [`Performance`].
        Px = 1,
        /// Throttling.
        Tx = 2,
        /// What the kernel says to ACPI that it can do.
        Pdc = 3,
    }
}

/// What begins each argument of [`PlatformOp::SetProcessorPminfo`] (`xenpf_set_processor_pminfo`); what is told follows.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PowerInfo {
    /// In: the CPU's number in ACPI's tables.
    pub id: u32,
    /// In: a number of [`PowerInfoKind`].
    pub kind: u32,
}

/// A register in ACPI's way (`xen_power_register`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PowerRegister {
    /// Where it is.
    pub space_id: u32,
    /// Its bits.
    pub bit_width: u32,
    /// The first of them.
    pub bit_offset: u32,
    /// How wide accesses are.
    pub access_size: u32,
    /// Its address there.
    pub address: u64,
}

/// An idle state (`xen_processor_cx`).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct IdleState {
    /// What enters it.
    pub reg: PowerRegister,
    /// Its kind: 1 for C1 and so on.
    pub kind: u8,
    #[doc(hidden)]
    pub pad: [u8; 3],
    /// Microseconds until the CPU runs again, at worst.
    pub latency: u32,
    /// Milliwatts in it.
    pub power: u32,
    /// Entries in `dp`.
    pub dpcnt: u32,
    /// Which CPUs depend on each other.
    pub dp: GuestHandle<u8>,
}

/// All idle states of a CPU (`xen_processor_power`).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct IdleStates {
    /// How many.
    pub count: u32,
    /// Bits about bus masters and where the states were found.
    pub flags: u32,
    /// The states.
    pub states: GuestHandle<IdleState>,
}

/// A register of performance states (`xen_pct_register`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PerformanceRegister {
    /// Of ACPI's resource.
    pub descriptor: u8,
    #[doc(hidden)]
    pub pad: u8,
    /// Its bytes.
    pub length: u16,
    /// Where the register is.
    pub space_id: u8,
    /// Its bits.
    pub bit_width: u8,
    /// The first of them.
    pub bit_offset: u8,
    #[doc(hidden)]
    pub reserved: u8,
    /// Its address there.
    pub address: u64,
}

/// A performance state (`xen_processor_px`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PerformanceState {
    /// Megahertz.
    pub core_frequency: u64,
    /// Milliwatts.
    pub power: u64,
    /// Microseconds to get there.
    pub transition_latency: u64,
    /// Microseconds without bus masters.
    pub bus_master_latency: u64,
    /// What is written to get there.
    pub control: u64,
    /// What is read then.
    pub status: u64,
}

bitflags::bitflags! {
    /// What [`Performance`] holds (`XEN_PX_*`).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct PerformanceParts: u32 {
        /// The registers.
        const REGISTERS = 1;
        /// The states.
        const STATES = 2;
        /// The limit.
        const LIMIT = 4;
        /// Who depends on whom.
        const COORDINATION = 8;
    }
}

/// Performance states of a CPU (`xen_processor_performance`).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Performance {
    /// Bits of [`PerformanceParts`].
    pub flags: u32,
    /// The fastest state that may be used now.
    pub platform_limit: u32,
    /// Sets the state.
    pub control_register: PerformanceRegister,
    /// Tells it.
    pub status_register: PerformanceRegister,
    /// How many states.
    pub state_count: u32,
    #[doc(hidden)]
    pub pad: u32,
    /// The states.
    pub states: GuestHandle<PerformanceState>,
    /// Entries, revision, domain, kind of coordination, processors.
    pub domain_info: [u64; 5],
    /// Who coordinates: 1 to 3.
    pub shared_type: u32,
    #[doc(hidden)]
    pub pad_2: u32,
}

/// Argument of [`PlatformOp::CpuHotadd`] (`xenpf_cpu_hotadd`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CpuHotadd {
    /// In: its APIC number.
    pub apic_id: u32,
    /// In: its number in ACPI's tables.
    pub acpi_id: u32,
    /// In: its proximity domain.
    pub pxm: u32,
}

/// Argument of [`PlatformOp::MemHotadd`] (`xenpf_mem_hotadd`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MemHotadd {
    /// In: the first frame.
    pub spfn: u64,
    /// In: the one behind the last.
    pub epfn: u64,
    /// In: its proximity domain.
    pub pxm: u32,
    /// In: none is known.
    pub flags: u32,
}
