//! Memory reservation and the physical map of a domain.
//!
//! Header: `memory.h`. A long operation is preempted and re-issued with its progress in the upper bits of
//! the sub-operation word, so the number proper is in the low [`CMD_MASK`] bits. Frame numbers on the
//! wire are 64-bit and may be anything.

use crate::handle::GuestHandle;
use crate::ids::DomId;
use crate::physdev::PciDevice;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bits of the first argument that name the sub-operation; the rest is progress of a preempted call.
/// Guests pass zero there; six bits hold every number that the headers define.
pub const CMD_MASK: u64 = (1 << CMD_BITS) - 1;
/// Width of the sub-operation in the first argument.
pub const CMD_BITS: u32 = 6;

wire_enum! {
    /// A sub-operation of `memory_op`.
    pub enum MemoryOp: u32, unknown is ENOSYS {
        /// Adds pages: [`Reservation`]; returns extents done.
        IncreaseReservation = 0,
        /// Gives pages back: [`Reservation`]; returns extents done.
        DecreaseReservation = 1,
        /// Highest machine frame of RAM; no argument.
        MaximumRamPage = 2,
        /// Pages that a domain has: [`MemoryDomain`].
        CurrentReservation = 3,
        /// Pages that a domain may have: [`MemoryDomain`].
        MaximumReservation = 4,
        /// Frames of the machine-to-physical table: [`MachphysMfnList`].
        MachphysMfnList = 5,
        /// Adds pages at given guest frames: [`Reservation`]; returns extents done.
        PopulatePhysmap = 6,
        /// Puts one page into the physical map: [`AddToPhysmap`].
        AddToPhysmap = 7,
        /// The memory map that a domain booted with: [`MemoryMap`].
        MemoryMap = 9,
        /// The machine's memory map: [`MemoryMap`].
        MachineMemoryMap = 10,
        /// Exchanges pages (PV): [`Exchange`].
        Exchange = 11,
        /// Address of the machine-to-physical table: [`MachphysMapping`].
        MachphysMapping = 12,
        /// Sets the memory map of a domain: [`ForeignMemoryMap`].
        SetMemoryMap = 13,
        /// Highest guest frame in use: [`MemoryDomain`].
        MaximumGpfn = 14,
        /// Takes a page out of the physical map: [`RemoveFromPhysmap`].
        RemoveFromPhysmap = 15,
        /// Sets the populate-on-demand target: [`PodTarget`].
        SetPodTarget = 16,
        /// Tells the populate-on-demand target: [`PodTarget`].
        GetPodTarget = 17,
        /// Pages saved by sharing; no argument.
        GetSharingFreedPages = 18,
        /// Pages that are shared; no argument.
        GetSharingSharedPages = 19,
        /// Paging of guest memory.
        PagingOp = 20,
        /// Access rights of guest memory.
        AccessOp = 21,
        /// Sharing of guest memory.
        SharingOp = 22,
        /// Puts many pages into the physical map: [`AddToPhysmapBatch`].
        AddToPhysmapBatch = 23,
        /// Stakes a claim on free memory: [`Reservation`].
        ClaimPages = 24,
        /// Frames of the compat machine-to-physical table: [`MachphysMfnList`].
        MachphysCompatMfnList = 25,
        /// The virtual NUMA topology of the caller: [`VnumaTopologyInfo`].
        GetVnumainfo = 26,
        /// Regions that devices need left alone: [`ReservedDeviceMemoryMap`].
        ReservedDeviceMemoryMap = 27,
        /// Frames of a resource of a domain: [`AcquireResource`].
        AcquireResource = 28,
    }
}

wire_enum! {
    /// What is put into the physical map (`XENMAPSPACE_*`).
    pub enum MapSpace: u32, unknown is ENOSYS {
        /// The shared-info page.
        SharedInfo = 0,
        /// A page of the grant table, or of its status array with [`MAPIDX_GRANT_TABLE_STATUS`].
        GrantTable = 1,
        /// Another frame of the same domain: it moves.
        Gmfn = 2,
        /// A range of such frames.
        GmfnRange = 3,
        /// A frame of another domain.
        GmfnForeign = 4,
        /// A frame of device memory.
        DevMmio = 5,
    }
}

/// Set in `idx` of a grant-table mapping: the status array is meant (v2).
pub const MAPIDX_GRANT_TABLE_STATUS: u64 = 0x8000_0000;

wire_flags! {
    /// How extents are allocated (`XENMEMF_*`). The low byte is an address width and the next
    /// a NUMA node plus one; see the methods.
    pub struct MemFlags: u32 {
        /// Populate on demand.
        const POPULATE_ON_DEMAND = 1 << 16;
        /// Only from the node named.
        const EXACT_NODE_REQUEST = 1 << 17;
        /// The node named is a virtual one.
        const VNODE = 1 << 18;
    }
}

impl MemFlags {
    /// Bits that the machine address may have; 0 is no limit.
    #[must_use]
    pub const fn address_bits(self) -> u32 {
        self.0 & 0xff
    }

    /// The NUMA node to allocate from, if one is named.
    #[must_use]
    pub const fn node(self) -> Option<u8> {
        ((self.0 >> 8) as u8).checked_sub(1)
    }
}

/// Extents to add, remove or populate (`xen_memory_reservation`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Reservation {
    /// In and out: the first frame of each extent.
    pub extent_start: GuestHandle<u64>,
    /// In: how many extents.
    pub nr_extents: u64,
    /// In: each is 2^order pages, aligned to its size.
    pub extent_order: u32,
    /// In: how to allocate.
    pub mem_flags: MemFlags,
    /// In: whose memory.
    pub domid: DomId,
    #[doc(hidden)]
    pub _pad: [u8; 6],
}

/// Argument of [`MemoryOp::Exchange`] (`xen_memory_exchange`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Exchange {
    /// In: what the caller gives.
    pub input: Reservation,
    /// In and out: what the caller gets.
    pub output: Reservation,
    /// Out: input extents done; zero on the way in.
    pub nr_exchanged: u64,
}

/// A bare domain name (`xen_memory_domain`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MemoryDomain {
    /// In: the domain.
    pub domid: DomId,
}

/// Argument of [`MemoryOp::MachphysMfnList`] (`xen_machphys_mfn_list`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MachphysMfnList {
    /// In: room in the array.
    pub max_extents: u32,
    #[doc(hidden)]
    pub _pad0: [u8; 4],
    /// Out: the first frame of each 2 MiB.
    pub extent_start: GuestHandle<u64>,
    /// Out: entries written.
    pub nr_extents: u32,
    #[doc(hidden)]
    pub _pad1: [u8; 4],
}

/// Result of [`MemoryOp::MachphysMapping`] (`xen_machphys_mapping`).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct MachphysMapping {
    /// Out: first virtual address.
    pub v_start: u64,
    /// Out: end.
    pub v_end: u64,
    /// Out: highest frame that can be looked up.
    pub max_mfn: u64,
}

/// Argument of [`MemoryOp::AddToPhysmap`] (`xen_add_to_physmap`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct AddToPhysmap {
    /// In: whose map.
    pub domid: DomId,
    /// In: pages, for [`MapSpace::GmfnRange`].
    pub size: u16,
    /// In: a number of [`MapSpace`].
    pub space: u32,
    /// In: which page of that space.
    pub idx: u64,
    /// In: the guest frame where it shall appear.
    pub gpfn: u64,
}

/// Argument of [`MemoryOp::AddToPhysmapBatch`] (`xen_add_to_physmap_batch`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct AddToPhysmapBatch {
    /// In: whose map.
    pub domid: DomId,
    /// In: a number of [`MapSpace`].
    pub space: u16,
    /// In: how many pages.
    pub size: u16,
    /// In: the other domain for [`MapSpace::GmfnForeign`]; otherwise zero.
    pub foreign_domid: DomId,
    /// In: which pages of that space.
    pub idxs: GuestHandle<u64>,
    /// In: the guest frames where they shall appear.
    pub gpfns: GuestHandle<u64>,
    /// Out: zero or a negated error code for each.
    pub errs: GuestHandle<i32>,
}

/// Argument of [`MemoryOp::RemoveFromPhysmap`] (`xen_remove_from_physmap`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RemoveFromPhysmap {
    /// In: whose map.
    pub domid: DomId,
    #[doc(hidden)]
    pub _pad: [u8; 6],
    /// In: the guest frame.
    pub gpfn: u64,
}

/// Argument of [`MemoryOp::MemoryMap`] (`xen_memory_map`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MemoryMap {
    /// In: room in the buffer; out: entries written.
    pub nr_entries: u32,
    #[doc(hidden)]
    pub _pad: [u8; 4],
    /// Out: entries in the E820 format of the PC BIOS.
    pub buffer: GuestHandle<u8>,
}

/// One entry of a memory map in the E820 format of the PC BIOS: 20 bytes, without padding.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C, packed)]
pub struct E820Entry {
    /// First byte.
    pub addr: u64,
    /// Length in bytes.
    pub size: u64,
    /// 1: RAM, 2: reserved, 3: ACPI tables, 4: ACPI NVS, 5: unusable.
    pub kind: u32,
}

/// Argument of [`MemoryOp::SetMemoryMap`] (`xen_foreign_memory_map`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ForeignMemoryMap {
    /// In: whose map.
    pub domid: DomId,
    #[doc(hidden)]
    pub _pad: [u8; 6],
    /// In: the map.
    pub map: MemoryMap,
}

/// Argument of the populate-on-demand calls (`xen_pod_target`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PodTarget {
    /// In: pages wanted.
    pub target_pages: u64,
    /// Out: pages that the domain has.
    pub tot_pages: u64,
    /// Out: pages in the cache.
    pub pod_cache_pages: u64,
    /// Out: entries not populated yet.
    pub pod_entries: u64,
    /// In: the domain.
    pub domid: DomId,
    #[doc(hidden)]
    pub _pad: [u8; 6],
}

/// A region that a device needs left alone (`xen_reserved_device_memory`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ReservedDeviceMemory {
    /// Its first frame.
    pub start_pfn: u64,
    /// Its length in pages.
    pub nr_pages: u64,
}

/// `flags` of [`ReservedDeviceMemoryMap`]: regions of all devices.
pub const RDM_ALL: u32 = 1;

/// Argument of [`MemoryOp::ReservedDeviceMemoryMap`] (`xen_reserved_device_memory_map`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ReservedDeviceMemoryMap {
    /// In: [`RDM_ALL`] or 0.
    pub flags: u32,
    /// In: room in the buffer; out: entries needed.
    pub nr_entries: u32,
    /// Out: the regions.
    pub buffer: GuestHandle<ReservedDeviceMemory>,
    /// In: the device, if not all.
    pub device: PciDevice,
    #[doc(hidden)]
    pub _pad: [u8; 4],
}

wire_enum! {
    /// A resource whose frames a tools domain may map (`XENMEM_resource_*`).
    pub enum Resource: u16, unknown is EOPNOTSUPP {
        /// Request pages of an ioreq server.
        IoreqServer = 0,
        /// Grant-table pages; `id` is [`RESOURCE_GRANT_TABLE_SHARED`] or the status array.
        GrantTable = 1,
        /// Processor-trace buffer of a vCPU.
        VmtraceBuf = 2,
    }
}

/// `id` of [`Resource::GrantTable`]: the entries.
pub const RESOURCE_GRANT_TABLE_SHARED: u32 = 0;
/// `id` of [`Resource::GrantTable`]: the status array (v2).
pub const RESOURCE_GRANT_TABLE_STATUS: u32 = 1;

/// Argument of [`MemoryOp::AcquireResource`] (`xen_mem_acquire_resource`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct AcquireResource {
    /// In: whose resource.
    pub domid: DomId,
    /// In: a number of [`Resource`].
    pub kind: u16,
    /// In: which one of that kind.
    pub id: u32,
    /// In: frames wanted; out: the size, if 0 and no list were given.
    pub nr_frames: u32,
    /// In: must be zero.
    pub pad: u32,
    /// In: the first frame of the resource.
    pub frame: u64,
    /// In and out: guest frames to map at, or (PV) machine frames out.
    pub frame_list: GuestHandle<u64>,
}

/// A range of a virtual NUMA node (`xen_vmemrange`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Vmemrange {
    /// First guest-physical byte.
    pub start: u64,
    /// End, exclusive.
    pub end: u64,
    /// Reserved.
    pub flags: u32,
    /// The virtual node.
    pub nid: u32,
}

/// Argument of [`MemoryOp::GetVnumainfo`] (`xen_vnuma_topology_info`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct VnumaTopologyInfo {
    /// In: the domain.
    pub domid: DomId,
    #[doc(hidden)]
    pub pad: u16,
    /// In: room; out: virtual nodes.
    pub nr_vnodes: u32,
    /// In: room; out: vCPUs.
    pub nr_vcpus: u32,
    /// In: room; out: ranges.
    pub nr_vmemranges: u32,
    /// Out: distances, nodes by nodes.
    pub vdistance: GuestHandle<u32>,
    /// Out: the node of each vCPU.
    pub vcpu_to_vnode: GuestHandle<u32>,
    /// Out: the ranges.
    pub vmemrange: GuestHandle<Vmemrange>,
}

#[cfg(test)]
mod tests {
    use super::MemFlags;

    #[test]
    fn the_node_is_stored_plus_one_and_zero_means_any() {
        assert_eq!(MemFlags(0).node(), None);
        assert_eq!(MemFlags(1 << 8).node(), Some(0));
        assert_eq!(MemFlags(3 << 8 | 32).node(), Some(2));
        assert_eq!(MemFlags(3 << 8 | 32).address_bits(), 32);
    }
}
