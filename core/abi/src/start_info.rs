//! What a PVH guest finds at its entry.
//!
//! Headers: `arch-x86/hvm/start_info.h`, `xen.h` (`SIF_*`). Every address is guest-physical; 0 is "none".
//! A PVH loader and the hypervisor's own PVH entry both speak it.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// First word of [`HvmStartInfo`].
pub const MAGIC: u32 = 0x336e_c578;

wire_flags! {
    /// What kind of domain this is (`SIF_*`).
    pub struct StartFlags: u32 {
        /// It has privileges.
        const PRIVILEGED = 1 << 0;
        /// It is the initial control domain.
        const INITDOMAIN = 1 << 1;
        /// PV: the module is a list of modules.
        const MULTIBOOT_MOD = 1 << 2;
        /// PV: the module is named by frame, not by address.
        const MOD_START_PFN = 1 << 3;
        /// PV: the tools understand the linear physical-to-machine table.
        const VIRT_P2M_4TOOLS = 1 << 4;
        /// Power-management options.
        const PM_MASK = 0xff << 8;
    }
}

/// The start-of-day struct (`hvm_start_info`), version 1.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct HvmStartInfo {
    /// [`MAGIC`].
    pub magic: u32,
    /// 1; version 0 ends before `memmap_paddr`.
    pub version: u32,
    /// What kind of domain this is.
    pub flags: StartFlags,
    /// Modules in the list.
    pub nr_modules: u32,
    /// The list: [`ModlistEntry`].
    pub modlist_paddr: u64,
    /// Zero-ended command line.
    pub cmdline_paddr: u64,
    /// The ACPI root pointer.
    pub rsdp_paddr: u64,
    /// The memory map: [`MemmapEntry`].
    pub memmap_paddr: u64,
    /// Entries in it; 0 if there is none.
    pub memmap_entries: u32,
    #[doc(hidden)]
    pub reserved: u32,
}

/// One module (`hvm_modlist_entry`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ModlistEntry {
    /// First byte.
    pub paddr: u64,
    /// Length in bytes.
    pub size: u64,
    /// Zero-ended command line.
    pub cmdline_paddr: u64,
    #[doc(hidden)]
    pub reserved: u64,
}

/// One range of the memory map (`hvm_memmap_table_entry`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MemmapEntry {
    /// First byte.
    pub addr: u64,
    /// Length in bytes.
    pub size: u64,
    /// A number of [`MemmapType`].
    pub kind: u32,
    #[doc(hidden)]
    pub reserved: u32,
}

wire_enum! {
    /// What a range is, in the numbers of ACPI (`XEN_HVM_MEMMAP_TYPE_*`).
    pub enum MemmapType: u32, unknown is EINVAL {
        /// Memory.
        Ram = 1,
        /// Not to be used.
        Reserved = 2,
        /// ACPI tables, reclaimable.
        Acpi = 3,
        /// ACPI non-volatile storage.
        Nvs = 4,
        /// Broken memory.
        Unusable = 5,
        /// Memory that is switched off.
        Disabled = 6,
        /// Persistent memory.
        Pmem = 7,
    }
}
