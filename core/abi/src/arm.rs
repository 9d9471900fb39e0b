//! The ABI as 64-bit ARM guests see it.
//!
//! Header: `arch-arm.h`, `device_tree_defs.h`. Hypercalls are `hvc #`[`HYPERCALL_TAG`] with the number in
//! `x16`. The memory map is what tools and boot-time domains use; a guest must read its device tree instead.

use crate::shared_info::{EVENT_WORDS, SharedInfoLayout, VcpuTimeInfo, shared_info_layout};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The immediate of the `hvc` instruction that makes a hypercall.
pub const HYPERCALL_TAG: u16 = 0xea1;

/// vCPUs with a `vcpu_info` in the shared page; all others must register theirs.
pub const LEGACY_MAX_VCPUS: usize = 1;

/// The architecture's part of [`VcpuInfo`]: nothing.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ArchVcpuInfo {}

/// The architecture's part of [`SharedInfo`]: nothing.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ArchSharedInfo {}

/// What one vCPU shares with the hypervisor (`vcpu_info`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct VcpuInfo {
    /// Non-zero: an upcall is pending.
    pub evtchn_upcall_pending: u8,
    #[doc(hidden)]
    pub pad0: u8,
    #[doc(hidden)]
    pub _pad1: [u8; 6],
    /// Which words of pending bits to look at.
    pub evtchn_pending_sel: u64,
    /// Nothing here.
    pub arch: ArchVcpuInfo,
    /// Time; ARM guests use the architected timer instead.
    pub time: VcpuTimeInfo,
}

/// The shared page (`shared_info`).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SharedInfo {
    /// vCPU 0 until it registers its own.
    pub vcpu_info: [VcpuInfo; LEGACY_MAX_VCPUS],
    /// A bit for each port that has an event.
    pub evtchn_pending: [u64; EVENT_WORDS],
    /// A bit for each port that shall not raise an upcall.
    pub evtchn_mask: [u64; EVENT_WORDS],
    /// Odd while the wall clock changes.
    pub wc_version: u32,
    /// Seconds since 1970 at system time 0, low half.
    pub wc_sec: u32,
    /// Nanoseconds that go with it.
    pub wc_nsec: u32,
    /// High half of the seconds.
    pub wc_sec_hi: u32,
    /// Nothing here.
    pub arch: ArchSharedInfo,
}

/// Offsets of the above, for the core.
pub const SHARED_INFO: SharedInfoLayout = shared_info_layout!(upcall mask: false, pad0);

/// Flag of a PPI callback in [`CallbackVia`](crate::hvm::CallbackVia): bits 15:8 of the parameter.
pub const CALLBACK_PPI_FLAG_MASK: u64 = 0xff00;
/// Value of that field for an active-low, level-triggered PPI.
pub const CALLBACK_PPI_FLAG_LOW_LEVEL: u64 = 2;

/// A range of guest-physical addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// First byte.
    pub base: u64,
    /// Length in bytes.
    pub size: u64,
}

impl Region {
    const fn new(base: u64, size: u64) -> Self {
        Self { base, size }
    }
}

/// Where things are for a domain that does not see the machine's own map (`GUEST_*`).
pub mod guest {
    use super::Region;

    /// virtio-mmio devices.
    pub const VIRTIO_MMIO: Region = Region::new(0x0200_0000, 0x0010_0000);
    /// GICv2 distributor.
    pub const GICD: Region = Region::new(0x0300_1000, 0x1000);
    /// GICv2 CPU interface.
    pub const GICC: Region = Region::new(0x0300_2000, 0x2000);
    /// GICv3 distributor.
    pub const GICV3_GICD: Region = Region::new(0x0300_1000, 0x1_0000);
    /// GICv3 redistributor regions.
    pub const GICV3_RDIST_REGIONS: u32 = 1;
    /// GICv3 redistributors of vCPUs 0 to 127.
    pub const GICV3_GICR0: Region = Region::new(0x0302_0000, 0x0100_0000);
    /// PCI configuration space.
    pub const VPCI_ECAM: Region = Region::new(0x1000_0000, 0x1000_0000);
    /// ACPI tables.
    pub const ACPI: Region = Region::new(0x2000_0000, 0x0200_0000);
    /// The emulated PL011.
    pub const PL011: Region = Region::new(0x2200_0000, 0x1000);
    /// PCI memory space.
    pub const VPCI_MEM: Region = Region::new(0x2300_0000, 0x1000_0000);
    /// Where the guest may map its grant table.
    pub const GNTTAB: Region = Region::new(0x3800_0000, 0x0100_0000);
    /// Console, XenStore and other special pages.
    pub const MAGIC: Region = Region::new(0x3900_0000, 0x0100_0000);
    /// Banks of memory.
    pub const RAM_BANKS: usize = 2;
    /// Low memory.
    pub const RAM0: Region = Region::new(0x4000_0000, 0xc000_0000);
    /// Prefetchable PCI memory space.
    pub const VPCI_PREFETCH_MEM: Region = Region::new(0x1_0000_0000, 0x1_0000_0000);
    /// High memory.
    pub const RAM1: Region = Region::new(0x2_0000_0000, 0xfe_0000_0000);
    /// Most memory that fits, in bytes.
    pub const RAM_MAX: u64 = RAM0.size + RAM1.size;
    /// Most vCPUs.
    pub const MAX_VCPUS: u32 = 128;

    /// Virtual timer, as an interrupt number of the GIC.
    pub const TIMER_VIRT_PPI: u32 = 27;
    /// Secure physical timer.
    pub const TIMER_PHYS_S_PPI: u32 = 29;
    /// Non-secure physical timer.
    pub const TIMER_PHYS_NS_PPI: u32 = 30;
    /// Event-channel upcall.
    pub const EVTCHN_PPI: u32 = 31;
    /// The emulated PL011.
    pub const VPL011_SPI: u32 = 32;
    /// First virtio-mmio interrupt.
    pub const VIRTIO_MMIO_SPI_FIRST: u32 = 33;
    /// Last virtio-mmio interrupt.
    pub const VIRTIO_MMIO_SPI_LAST: u32 = 43;

    /// Phandle of the interrupt controller in a made device tree.
    pub const PHANDLE_GIC: u32 = 65000;
    /// `#address-cells` of the root of a made device tree.
    pub const ROOT_ADDRESS_CELLS: u32 = 2;
    /// `#size-cells` of the root of a made device tree.
    pub const ROOT_SIZE_CELLS: u32 = 2;
}

wire_enum! {
    /// Functions of PSCI 0.1, whose numbers the device tree tells the guest (`PSCI_*`).
    pub enum Psci01: u32, unknown is ENOSYS {
        /// Suspend this vCPU.
        CpuSuspend = 0,
        /// Take this vCPU down.
        CpuOff = 1,
        /// Bring a vCPU up.
        CpuOn = 2,
        /// Move the trusted system.
        Migrate = 3,
    }
}

/// Processor state of a new AArch64 vCPU: EL1h, asynchronous aborts, IRQ and FIQ masked.
pub const PSR_GUEST64_INIT: u64 = 0x1c5;
/// Processor state of a new AArch32 vCPU: SVC, aborts, IRQ and FIQ masked, Z set.
pub const PSR_GUEST32_INIT: u64 = 0x4000_01d3;
/// `SCTLR` of a new vCPU: MMU and caches off.
pub const SCTLR_GUEST_INIT: u64 = 0x00c5_0078;

/// Interface revision in the answer to an SMCCC hypervisor-service call: major, minor.
pub const SMCCC_REVISION: (u32, u32) = (0, 1);
/// UUID of the hypervisor service of SMCCC, in the order of its text form.
pub const SMCCC_UID: [u8; 16] = [
    0xa7, 0x18, 0x12, 0xdc, 0xc6, 0x98, 0x43, 0x69, 0x9a, 0xcf, 0x79, 0xd1, 0x8d, 0xde, 0xe6, 0x67,
];
/// UUID of the standard service of SMCCC, in the order of its text form.
pub const SSSC_SMCCC_UID: [u8; 16] = [
    0xf8, 0x63, 0x38, 0x6f, 0x4b, 0x39, 0x4c, 0xbd, 0x92, 0x20, 0xce, 0x16, 0x41, 0xe5, 0x9f, 0x6f,
];
