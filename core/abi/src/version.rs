//! Who the hypervisor is and what it offers.
//!
//! Headers: `version.h`, `features.h`. Most sub-operations fill a fixed buffer with a string that ends
//! in a zero byte; three return their answer as the result of the call.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The release whose ABI this is: major number.
pub const MAJOR: u16 = 4;
/// The release whose ABI this is: minor number.
pub const MINOR: u16 = 17;

/// Result of [`VersionOp::Version`]: major number in the high half, minor in the low half.
pub const VERSION: u32 = (MAJOR as u32) << 16 | MINOR as u32;

wire_enum! {
    /// A sub-operation of `xen_version`.
    pub enum VersionOp: u32, unknown is ENOSYS {
        /// Returns [`VERSION`]; no argument.
        Version = 0,
        /// What follows major and minor: [`EXTRAVERSION_LEN`] bytes.
        Extraversion = 1,
        /// How it was built: [`CompileInfo`].
        CompileInfo = 2,
        /// Guest types that it can run: [`CAPABILITIES_LEN`] bytes.
        Capabilities = 3,
        /// Source revision: [`CHANGESET_LEN`] bytes.
        Changeset = 4,
        /// First virtual address of the hypervisor: [`PlatformParameters`].
        PlatformParameters = 5,
        /// Features for this caller: [`FeatureInfo`].
        GetFeatures = 6,
        /// Returns the page size in bytes; no argument.
        Pagesize = 7,
        /// The caller's UUID: [`DomainHandle`].
        GuestHandle = 8,
        /// The hypervisor's command line: [`COMMANDLINE_LEN`] bytes.
        Commandline = 9,
        /// The build id: [`BuildIdHeader`] and bytes; returns their count.
        BuildId = 10,
    }
}

/// Buffer of [`VersionOp::Extraversion`], in bytes.
pub const EXTRAVERSION_LEN: usize = 16;
/// Buffer of [`VersionOp::Capabilities`], in bytes.
pub const CAPABILITIES_LEN: usize = 1024;
/// Buffer of [`VersionOp::Changeset`], in bytes.
pub const CHANGESET_LEN: usize = 64;
/// Buffer of [`VersionOp::Commandline`], in bytes.
pub const COMMANDLINE_LEN: usize = 1024;

/// The UUID of a domain (`xen_domain_handle_t`).
pub type DomainHandle = [u8; 16];

/// Result of [`VersionOp::CompileInfo`] (`xen_compile_info`): zero-ended strings.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CompileInfo {
    /// Compiler and its version.
    pub compiler: [u8; 64],
    /// Who built it.
    pub compile_by: [u8; 16],
    /// Where.
    pub compile_domain: [u8; 32],
    /// When.
    pub compile_date: [u8; 32],
}

/// Result of [`VersionOp::PlatformParameters`] (`xen_platform_parameters`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PlatformParameters {
    /// Out: first virtual address that belongs to the hypervisor.
    pub virt_start: u64,
}

/// Argument of [`VersionOp::GetFeatures`] (`xen_feature_info`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FeatureInfo {
    /// In: which group of 32; below [`NR_FEATURE_SUBMAPS`] there may be some, above is `EINVAL`.
    pub submap_idx: u32,
    /// Out: the features.
    pub submap: Features,
}

/// Groups of 32 features.
pub const NR_FEATURE_SUBMAPS: u32 = 1;

wire_flags! {
    /// Features of group 0; bit numbers are those of `XENFEAT_*`.
    pub struct Features: u32 {
        /// Page tables need no write protection.
        const WRITABLE_PAGE_TABLES = 1 << 0;
        /// Descriptor tables need no write protection.
        const WRITABLE_DESCRIPTOR_TABLES = 1 << 1;
        /// The hypervisor translates guest-physical addresses.
        const AUTO_TRANSLATED_PHYSMAP = 1 << 2;
        /// The kernel runs in supervisor mode.
        const SUPERVISOR_MODE_KERNEL = 1 << 3;
        /// x86-32: page directories may lie above 4 GiB.
        const PAE_PGDIR_ABOVE_4GB = 1 << 4;
        /// x86 PV: the page-table update that keeps accessed and dirty bits.
        const MMU_PT_UPDATE_PRESERVE_AD = 1 << 5;
        /// x86 PV: clear and copy page calls.
        const HIGHMEM_ASSIST = 1 << 6;
        /// Grant maps honour the available bits.
        const GNTTAB_MAP_AVAIL_BITS = 1 << 7;
        /// x86 HVM: event upcalls by vector.
        const HVM_CALLBACK_VECTOR = 1 << 8;
        /// x86 HVM: the paravirtual clock is safe.
        const HVM_SAFE_PVCLOCK = 1 << 9;
        /// x86 HVM: physical interrupts by event channel.
        const HVM_PIRQS = 1 << 10;
        /// The caller is, or may run as, the initial domain.
        const DOM0 = 1 << 11;
        /// Reservations may name virtual NUMA nodes.
        const MEMORY_OP_VNODE_SUPPORTED = 1 << 13;
        /// ARM: the SMC calling convention is there.
        const ARM_SMCCC_SUPPORTED = 1 << 14;
        /// x86 PVH: the ACPI root pointer may lie anywhere.
        const LINUX_RSDP_UNRESTRICTED = 1 << 15;
        /// The caller's guest frames are not its machine frames.
        const NOT_DIRECT_MAPPED = 1 << 16;
        /// The caller's guest frames are its machine frames.
        const DIRECT_MAPPED = 1 << 17;
    }
}

/// What stands before the bytes of a build id (`xen_build_id`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct BuildIdHeader {
    /// In: room after this header, in bytes.
    pub len: u32,
}
