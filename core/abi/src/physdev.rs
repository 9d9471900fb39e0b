//! Physical interrupts and PCI devices, as a driver domain asks for them.
//!
//! Header: `physdev.h`. ARM knows only `PciDeviceAdd` and `PciDeviceRemove`; the rest is x86.

use crate::handle::GuestHandle;
use crate::ids::DomId;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

wire_enum! {
    /// A sub-operation of `physdev_op`.
    pub enum PhysdevOp: u32, unknown is ENOSYS {
        /// Obsolete: unmask notification.
        IrqUnmaskNotify = 4,
        /// Asks about an interrupt line: [`IrqStatusQuery`].
        IrqStatusQuery = 5,
        /// Sets the caller's I/O privilege level: [`SetIopl`].
        SetIopl = 6,
        /// Sets the caller's I/O bitmap: [`SetIobitmap`].
        SetIobitmap = 7,
        /// Reads an I/O APIC register: [`Apic`].
        ApicRead = 8,
        /// Writes an I/O APIC register: [`Apic`].
        ApicWrite = 9,
        /// Allocates a vector for a line: [`Irq`].
        AllocIrqVector = 10,
        /// Frees a vector: [`Irq`].
        FreeIrqVector = 11,
        /// Ends an interrupt: [`Eoi`].
        Eoi = 12,
        /// Maps an interrupt for a domain: [`MapPirq`].
        MapPirq = 13,
        /// Unmaps it: [`UnmapPirq`].
        UnmapPirq = 14,
        /// Announces a PCI device (old): [`ManagePci`].
        ManagePciAdd = 15,
        /// Withdraws a PCI device (old): [`ManagePci`].
        ManagePciRemove = 16,
        /// Shares a bitmap of lines that need an end: [`PirqEoiGmfn`].
        PirqEoiGmfnV1 = 17,
        /// Restores MSI state (old): [`ManagePci`].
        RestoreMsi = 19,
        /// Announces a PCI function (old): [`ManagePciExt`].
        ManagePciAddExt = 20,
        /// Sets trigger and polarity of a line: [`SetupGsi`].
        SetupGsi = 21,
        /// Asks for a free number: [`GetFreePirq`].
        GetFreePirq = 23,
        /// Announces a configuration-space window: [`PciMmcfgReserved`].
        PciMmcfgReserved = 24,
        /// Announces a PCI device: [`PciDeviceAdd`] and optional words.
        PciDeviceAdd = 25,
        /// Withdraws a PCI device: [`PciDevice`].
        PciDeviceRemove = 26,
        /// Restores MSI state: [`PciDevice`].
        RestoreMsiExt = 27,
        /// As `PirqEoiGmfnV1`, but an end stays an end: [`PirqEoiGmfn`].
        PirqEoiGmfnV2 = 28,
        /// Debug-port reset: [`DbgpOp`].
        DbgpOp = 29,
        /// MSI-X tables are about to stay put: [`PciDevice`].
        PrepareMsix = 30,
        /// MSI-X tables may move again: [`PciDevice`].
        ReleaseMsix = 31,
    }
}

/// Argument of [`PhysdevOp::Eoi`] (`physdev_eoi`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Eoi {
    /// In: the line.
    pub irq: u32,
}

/// Argument of the shared-bitmap operations (`physdev_pirq_eoi_gmfn`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PirqEoiGmfn {
    /// In: guest frame of the bitmap.
    pub gmfn: u64,
}

wire_flags! {
    /// Answer of [`IrqStatusQuery`] (`XENIRQSTAT_*`).
    pub struct IrqStatus: u32 {
        /// The guest must end it by a call.
        const NEEDS_EOI = 1 << 0;
        /// Other domains share it.
        const SHARED = 1 << 1;
    }
}

/// Argument of [`PhysdevOp::IrqStatusQuery`] (`physdev_irq_status_query`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct IrqStatusQuery {
    /// In: the line.
    pub irq: u32,
    /// Out: what is so about it.
    pub flags: IrqStatus,
}

/// Argument of [`PhysdevOp::SetIopl`] (`physdev_set_iopl`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SetIopl {
    /// In: 0 to 3.
    pub iopl: u32,
}

/// Argument of [`PhysdevOp::SetIobitmap`] (`physdev_set_iobitmap`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SetIobitmap {
    /// In: a bit for each port.
    pub bitmap: GuestHandle<u8>,
    /// In: ports in it.
    pub nr_ports: u32,
    #[doc(hidden)]
    pub _pad: [u8; 4],
}

/// Argument of the I/O APIC operations (`physdev_apic`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Apic {
    /// In: physical address of the I/O APIC.
    pub apic_physbase: u64,
    /// In: the register.
    pub reg: u32,
    /// In or out: its value.
    pub value: u32,
}

/// Argument of the vector operations (`physdev_irq`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Irq {
    /// In: the line.
    pub irq: u32,
    /// In or out: the vector.
    pub vector: u32,
}

wire_enum! {
    /// What [`MapPirq`] maps (`MAP_PIRQ_TYPE_*`).
    pub enum MapPirqType: u32, unknown is EINVAL {
        /// A message-signalled interrupt.
        Msi = 0,
        /// A line.
        Gsi = 1,
        /// Not known.
        Unknown = 2,
        /// A message-signalled interrupt of another PCI segment.
        MsiSeg = 3,
        /// Several messages.
        MultiMsi = 4,
    }
}

/// Argument of [`PhysdevOp::MapPirq`] (`physdev_map_pirq`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MapPirq {
    /// In: for whom.
    pub domid: DomId,
    #[doc(hidden)]
    pub _pad0: [u8; 2],
    /// In: a number of [`MapPirqType`].
    pub kind: u32,
    /// In: the line, or -1.
    pub index: i32,
    /// In: the wanted number or negative for any; out: the number got.
    pub pirq: i32,
    /// In: bus, with the segment in the high half for some kinds.
    pub bus: i32,
    /// In: device and function.
    pub devfn: i32,
    /// In: entry of the MSI-X table, or count of messages.
    pub entry_nr: i32,
    #[doc(hidden)]
    pub _pad1: [u8; 4],
    /// In: physical address of the MSI-X table.
    pub table_base: u64,
}

/// Argument of [`PhysdevOp::UnmapPirq`] (`physdev_unmap_pirq`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct UnmapPirq {
    /// In: for whom.
    pub domid: DomId,
    #[doc(hidden)]
    pub _pad: [u8; 2],
    /// In: the number.
    pub pirq: i32,
}

/// Bus, device and function (`physdev_manage_pci`, `physdev_restore_msi`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ManagePci {
    /// In: bus.
    pub bus: u8,
    /// In: device and function.
    pub devfn: u8,
}

/// Argument of [`PhysdevOp::ManagePciAddExt`] (`physdev_manage_pci_ext`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ManagePciExt {
    /// In: bus.
    pub bus: u8,
    /// In: device and function.
    pub devfn: u8,
    #[doc(hidden)]
    pub _pad0: [u8; 2],
    /// In: non-zero for an extended function.
    pub is_extfn: u32,
    /// In: non-zero for a virtual function.
    pub is_virtfn: u32,
    /// In: the physical function of a virtual one.
    pub physfn: ManagePci,
    #[doc(hidden)]
    pub _pad1: [u8; 2],
}

/// Argument of [`PhysdevOp::SetupGsi`] (`physdev_setup_gsi`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SetupGsi {
    /// In: the line.
    pub gsi: i32,
    /// In: 0 edge, 1 level.
    pub triggering: u8,
    /// In: 0 high, 1 low.
    pub polarity: u8,
    #[doc(hidden)]
    pub _pad: [u8; 2],
}

/// Argument of [`PhysdevOp::GetFreePirq`] (`physdev_get_free_pirq`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GetFreePirq {
    /// In: a number of [`MapPirqType`].
    pub kind: u32,
    /// Out: the number.
    pub pirq: u32,
}

/// Flag of [`PciMmcfgReserved`]: the firmware says that the window is reserved.
pub const PCI_MMCFG_RESERVED: u32 = 1;

/// Argument of [`PhysdevOp::PciMmcfgReserved`] (`physdev_pci_mmcfg_reserved`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PciMmcfgReserved {
    /// In: physical address of the window.
    pub address: u64,
    /// In: PCI segment.
    pub segment: u16,
    /// In: first bus.
    pub start_bus: u8,
    /// In: last bus.
    pub end_bus: u8,
    /// In: [`PCI_MMCFG_RESERVED`] or 0.
    pub flags: u32,
}

wire_flags! {
    /// What a new PCI device is (`XEN_PCI_DEV_*`).
    pub struct PciDeviceFlags: u32 {
        /// An extended function.
        const EXTFN = 1 << 0;
        /// A virtual function.
        const VIRTFN = 1 << 1;
        /// The first optional word is its proximity domain.
        const PXM = 1 << 2;
    }
}

/// Argument of [`PhysdevOp::PciDeviceAdd`] (`physdev_pci_device_add`) up to its optional words, which
/// begin at [`PciDeviceAdd::OPTIONAL`].
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PciDeviceAdd {
    /// In: PCI segment.
    pub seg: u16,
    /// In: bus.
    pub bus: u8,
    /// In: device and function.
    pub devfn: u8,
    /// In: what it is.
    pub flags: PciDeviceFlags,
    /// In: the physical function of a virtual one.
    pub physfn: ManagePci,
    #[doc(hidden)]
    pub _pad: [u8; 2],
}

impl PciDeviceAdd {
    /// Offset of the optional 32-bit words, in bytes.
    pub const OPTIONAL: usize = size_of::<Self>();
}

/// A PCI device (`physdev_pci_device`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PciDevice {
    /// In: PCI segment.
    pub seg: u16,
    /// In: bus.
    pub bus: u8,
    /// In: device and function.
    pub devfn: u8,
}

/// Argument of [`PhysdevOp::DbgpOp`] (`physdev_dbgp_op`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct DbgpOp {
    /// In: 1 prepare, 2 done.
    pub op: u8,
    /// In: 0 unknown, 1 PCI.
    pub bus: u8,
    /// In: the controller.
    pub pci: PciDevice,
}
