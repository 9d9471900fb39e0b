//! Grant tables: a domain lets another map, copy or take pages of its own.
//!
//! Header: `grant_table.h`. Most sub-operations take an array: the call itself fails only for the array
//! as a whole, each element carries its own [`GrantStatus`]. A v1 entry is written by the guest and read
//! by the hypervisor with no lock, so its flags word is only touched atomically, and the frame and
//! domain are read before the flags are claimed.

use crate::handle::GuestHandle;
use crate::ids::{DomId, GrantHandle, GrantRef};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

wire_enum! {
    /// A sub-operation of `grant_table_op`.
    pub enum GrantTableOp: u32, unknown is ENOSYS {
        /// Maps granted pages: array of [`MapGrantRef`].
        MapGrantRef = 0,
        /// Undoes mappings: array of [`UnmapGrantRef`].
        UnmapGrantRef = 1,
        /// Sizes the table and tells its frames: one [`SetupTable`].
        SetupTable = 2,
        /// Prints a table on the console: [`DumpTable`].
        DumpTable = 3,
        /// Gives pages away: array of [`Transfer`].
        Transfer = 4,
        /// Copies bytes between pages: array of [`GrantCopy`].
        Copy = 5,
        /// Tells the table's size: one [`QuerySize`].
        QuerySize = 6,
        /// Unmaps and puts another page in place: array of [`UnmapAndReplace`].
        UnmapAndReplace = 7,
        /// Chooses entry format 1 or 2: [`SetVersion`].
        SetVersion = 8,
        /// Tells the frames of the v2 status array: [`GetStatusFrames`].
        GetStatusFrames = 9,
        /// Tells a domain's entry format: [`GetVersion`].
        GetVersion = 10,
        /// Exchanges two entries: array of [`SwapGrantRef`].
        SwapGrantRef = 11,
        /// Cleans or invalidates caches for a granted page: array of [`CacheFlush`].
        CacheFlush = 12,
    }
}

wire_enum! {
    /// The outcome of one element, in its `status` field.
    pub enum GrantStatus: i16, unknown is EINVAL {
        /// Done.
        Okay = 0,
        /// Something else went wrong.
        GeneralError = -1,
        /// No such domain, or none that concerns the caller.
        BadDomain = -2,
        /// No such entry, or not one of the right kind.
        BadGntref = -3,
        /// No such mapping.
        BadHandle = -4,
        /// The host address cannot be mapped so.
        BadVirtAddr = -5,
        /// The bus address is wrong.
        BadDevAddr = -6,
        /// The I/O address space is full.
        NoDeviceSpace = -7,
        /// Not allowed.
        PermissionDenied = -8,
        /// The page cannot be used so.
        BadPage = -9,
        /// A copy would leave its page.
        BadCopyArg = -10,
        /// The page's address is too large for the receiver.
        AddressTooBig = -11,
        /// Not now; try again.
        Eagain = -12,
        /// No handle or other resource is left.
        NoSpace = -13,
    }
}

/// Entries at the start of the table that survive a version change.
pub const NR_RESERVED_ENTRIES: u32 = 8;
/// Reserved entry of the console page.
pub const RESERVED_CONSOLE: u32 = 0;
/// Reserved entry of the XenStore page.
pub const RESERVED_XENSTORE: u32 = 1;

/// Values of the type field of an entry's flags (`GTF_type_mask`).
pub mod entry_type {
    /// Grants nothing.
    pub const INVALID: u16 = 0;
    /// The named domain may map and copy the frame.
    pub const PERMIT_ACCESS: u16 = 1;
    /// The named domain may transfer a page in.
    pub const ACCEPT_TRANSFER: u16 = 2;
    /// The grant passes on a grant of a third domain (v2, copy only).
    pub const TRANSITIVE: u16 = 3;
    /// The type field.
    pub const MASK: u16 = 3;
}

wire_flags! {
    /// The flags word of a grant entry: a type of [`entry_type`] and these bits.
    pub struct EntryFlags: u16 {
        /// Guest: access is read only.
        const READONLY = 1 << 2;
        /// Hypervisor: mapped for reading, or being copied from.
        const READING = 1 << 3;
        /// Hypervisor: mapped for writing, or being copied to.
        const WRITING = 1 << 4;
        /// Guest: x86 cache attribute PWT.
        const PWT = 1 << 5;
        /// Guest: x86 cache attribute PCD.
        const PCD = 1 << 6;
        /// Guest: x86 cache attribute PAT.
        const PAT = 1 << 7;
        /// Guest: the grant covers part of a page (v2, copy only).
        const SUB_PAGE = 1 << 8;
    }
}

impl EntryFlags {
    /// For `ACCEPT_TRANSFER`: the hypervisor has committed to the transfer.
    pub const TRANSFER_COMMITTED: u16 = 1 << 2;
    /// For `ACCEPT_TRANSFER`: the transfer is complete and the frame field is final.
    pub const TRANSFER_COMPLETED: u16 = 1 << 3;

    /// The type field, a value of [`entry_type`].
    #[must_use]
    pub const fn entry_type(self) -> u16 {
        self.0 & entry_type::MASK
    }
}

/// An entry of a version 1 table (`grant_entry_v1`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct EntryV1 {
    /// Type and flags; guest and hypervisor both write here.
    pub flags: EntryFlags,
    /// Who is granted.
    pub domid: DomId,
    /// The granting domain's frame number.
    pub frame: u32,
}

impl EntryV1 {
    /// Entries in one page of the table.
    pub const PER_PAGE: u32 = 512;
}

/// A full-page entry of a version 2 table (`grant_entry_v2.full_page`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct EntryV2 {
    /// Type and flags, written by the guest; usage bits stand in the status array.
    pub flags: EntryFlags,
    /// Who is granted.
    pub domid: DomId,
    /// Sub-page grants: offset in the low half, length in the high half. Otherwise unused.
    pub part: u32,
    /// The granting domain's frame number.
    pub frame: u64,
}

impl EntryV2 {
    /// Entries in one page of the table.
    pub const PER_PAGE: u32 = 256;
    /// Entries whose status words stand in one page.
    pub const STATUS_PER_PAGE: u32 = 2048;
}

/// In the index of a grant table frame for a physical map: a status frame is meant.
pub const MAPIDX_STATUS: u64 = 0x8000_0000;

wire_flags! {
    /// How a grant is to be mapped (`GNTMAP_*`).
    pub struct MapFlags: u32 {
        /// For devices.
        const DEVICE_MAP = 1 << 0;
        /// For CPUs.
        const HOST_MAP = 1 << 1;
        /// Read only.
        const READONLY = 1 << 2;
        /// With `HOST_MAP`: also for the current application (PV).
        const APPLICATION_MAP = 1 << 3;
        /// With `HOST_MAP`: `host_addr` is the machine address of a page-table entry (PV).
        const CONTAINS_PTE = 1 << 4;
        /// Bits that the guest wants in the available field of the entry (PV).
        const GUEST_AVAIL_MASK = 0xffff_0000;
    }
}

/// Element of [`GrantTableOp::MapGrantRef`] (`gnttab_map_grant_ref`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MapGrantRef {
    /// In: where to map: guest-physical for a translated guest.
    pub host_addr: u64,
    /// In: how to map.
    pub flags: MapFlags,
    /// In: the entry in `dom`'s table.
    pub gref: GrantRef,
    /// In: the granting domain.
    pub dom: DomId,
    /// Out: a number of [`GrantStatus`].
    pub status: i16,
    /// Out: names the mapping for the unmap.
    pub handle: GrantHandle,
    /// Out: address for devices.
    pub dev_bus_addr: u64,
}

/// Element of [`GrantTableOp::UnmapGrantRef`] (`gnttab_unmap_grant_ref`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct UnmapGrantRef {
    /// In: the host address given at map time; 0 leaves the host mapping alone.
    pub host_addr: u64,
    /// In: the bus address got at map time; 0 leaves the device mapping alone.
    pub dev_bus_addr: u64,
    /// In: the mapping.
    pub handle: GrantHandle,
    /// Out: a number of [`GrantStatus`].
    pub status: i16,
    #[doc(hidden)]
    pub _pad: [u8; 2],
}

/// Argument of [`GrantTableOp::SetupTable`] (`gnttab_setup_table`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SetupTable {
    /// In: whose table.
    pub dom: DomId,
    #[doc(hidden)]
    pub _pad0: [u8; 2],
    /// In: frames that the table shall have at least.
    pub nr_frames: u32,
    /// Out: a number of [`GrantStatus`].
    pub status: i16,
    #[doc(hidden)]
    pub _pad1: [u8; 6],
    /// Out: `nr_frames` frame numbers.
    pub frame_list: GuestHandle<u64>,
}

/// Argument of [`GrantTableOp::DumpTable`] (`gnttab_dump_table`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct DumpTable {
    /// In: whose table.
    pub dom: DomId,
    /// Out: a number of [`GrantStatus`].
    pub status: i16,
}

/// Element of [`GrantTableOp::Transfer`] (`gnttab_transfer`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Transfer {
    /// In: the caller's frame to give away.
    pub mfn: u64,
    /// In: who gets it.
    pub domid: DomId,
    #[doc(hidden)]
    pub _pad0: [u8; 2],
    /// In: the receiver's entry.
    pub gref: GrantRef,
    /// Out: a number of [`GrantStatus`].
    pub status: i16,
    #[doc(hidden)]
    pub _pad1: [u8; 6],
}

wire_flags! {
    /// How the two ends of a [`GrantCopy`] are named (`GNTCOPY_*`).
    pub struct CopyFlags: u16 {
        /// The source is a grant; otherwise a frame of its domain.
        const SOURCE_GREF = 1 << 0;
        /// The destination is a grant; otherwise a frame of its domain.
        const DEST_GREF = 1 << 1;
    }
}

/// One end of a [`GrantCopy`] (`gnttab_copy_ptr`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CopyPtr {
    /// A grant reference in the low half, or a frame number: see [`CopyFlags`].
    pub gref_or_gfn: u64,
    /// The domain that owns the page or gave the grant.
    pub domid: DomId,
    /// First byte in the page.
    pub offset: u16,
    #[doc(hidden)]
    pub _pad: [u8; 4],
}

impl CopyPtr {
    /// The union read as a grant reference.
    #[must_use]
    pub const fn gref(&self) -> GrantRef {
        GrantRef(self.gref_or_gfn as u32)
    }
}

/// Element of [`GrantTableOp::Copy`] (`gnttab_copy`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GrantCopy {
    /// In: where from.
    pub source: CopyPtr,
    /// In: where to.
    pub dest: CopyPtr,
    /// In: bytes; neither end may leave its page.
    pub len: u16,
    /// In: how the ends are named.
    pub flags: CopyFlags,
    /// Out: a number of [`GrantStatus`].
    pub status: i16,
    #[doc(hidden)]
    pub _pad: [u8; 2],
}

/// Argument of [`GrantTableOp::QuerySize`] (`gnttab_query_size`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct QuerySize {
    /// In: whose table.
    pub dom: DomId,
    #[doc(hidden)]
    pub _pad0: [u8; 2],
    /// Out: frames in use.
    pub nr_frames: u32,
    /// Out: frames allowed.
    pub max_nr_frames: u32,
    /// Out: a number of [`GrantStatus`].
    pub status: i16,
    #[doc(hidden)]
    pub _pad1: [u8; 2],
}

/// Element of [`GrantTableOp::UnmapAndReplace`] (`gnttab_unmap_and_replace`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct UnmapAndReplace {
    /// In: the host address given at map time.
    pub host_addr: u64,
    /// In: address whose mapping moves to `host_addr`.
    pub new_addr: u64,
    /// In: the mapping.
    pub handle: GrantHandle,
    /// Out: a number of [`GrantStatus`].
    pub status: i16,
    #[doc(hidden)]
    pub _pad: [u8; 2],
}

/// Argument of [`GrantTableOp::SetVersion`] (`gnttab_set_version`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SetVersion {
    /// In: the wanted format; out: the format now.
    pub version: u32,
}

/// Argument of [`GrantTableOp::GetStatusFrames`] (`gnttab_get_status_frames`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GetStatusFrames {
    /// In: frames wanted.
    pub nr_frames: u32,
    /// In: whose table.
    pub dom: DomId,
    /// Out: a number of [`GrantStatus`].
    pub status: i16,
    /// Out: `nr_frames` frame numbers.
    pub frame_list: GuestHandle<u64>,
}

/// Argument of [`GrantTableOp::GetVersion`] (`gnttab_get_version`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GetVersion {
    /// In: whose table.
    pub dom: DomId,
    #[doc(hidden)]
    pub pad: u16,
    /// Out: the entry format.
    pub version: u32,
}

/// Element of [`GrantTableOp::SwapGrantRef`] (`gnttab_swap_grant_ref`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SwapGrantRef {
    /// In: one entry.
    pub ref_a: GrantRef,
    /// In: the other.
    pub ref_b: GrantRef,
    /// Out: a number of [`GrantStatus`].
    pub status: i16,
    #[doc(hidden)]
    pub _pad: [u8; 2],
}

wire_flags! {
    /// What [`CacheFlush`] shall do (`GNTTAB_CACHE_*`).
    pub struct CacheFlags: u32 {
        /// Write dirty lines back.
        const CLEAN = 1 << 0;
        /// Throw lines away.
        const INVAL = 1 << 1;
        /// The page is named by a grant of the caller, not by its bus address.
        const SOURCE_GREF = 1 << 31;
    }
}

/// Element of [`GrantTableOp::CacheFlush`] (`gnttab_cache_flush`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CacheFlush {
    /// In: bus address, or a grant reference in the low half.
    pub addr_or_gref: u64,
    /// In: first byte in the page.
    pub offset: u16,
    /// In: bytes.
    pub length: u16,
    /// In: what to do.
    pub op: CacheFlags,
}
