//! `grant_table_op` and the version-1 table.

use super::nr;
use crate::arch::{self, hypercall};
use crate::buffer::Page;

#[allow(missing_docs)]
pub mod op {
    pub const MAP: u64 = 0;
    pub const UNMAP: u64 = 1;
    pub const SETUP_TABLE: u64 = 2;
    pub const TRANSFER: u64 = 4;
    pub const COPY: u64 = 5;
    pub const QUERY_SIZE: u64 = 6;
    pub const UNMAP_AND_REPLACE: u64 = 7;
    pub const SET_VERSION: u64 = 8;
    pub const GET_STATUS_FRAMES: u64 = 9;
    pub const GET_VERSION: u64 = 10;
    pub const SWAP: u64 = 11;
    pub const CACHE_FLUSH: u64 = 12;
}

/// Per-operation status.
#[allow(missing_docs)]
pub mod gnt {
    pub const OKAY: i16 = 0;
    pub const GENERAL_ERROR: i16 = -1;
    pub const BAD_DOMAIN: i16 = -2;
    pub const BAD_GNTREF: i16 = -3;
    pub const BAD_HANDLE: i16 = -4;
    pub const BAD_VIRT_ADDR: i16 = -5;
    pub const BAD_DEV_ADDR: i16 = -6;
    pub const NO_DEVICE_SPACE: i16 = -7;
    pub const PERMISSION_DENIED: i16 = -8;
    pub const BAD_PAGE: i16 = -9;
    pub const BAD_COPY_ARG: i16 = -10;
    pub const ADDRESS_TOO_BIG: i16 = -11;
    pub const EAGAIN: i16 = -12;
    pub const NO_SPACE: i16 = -13;
}

/// Flags of a table entry.
#[allow(missing_docs)]
pub mod entry {
    pub const PERMIT_ACCESS: u16 = 1;
    pub const READ_ONLY: u16 = 1 << 2;
    pub const READING: u16 = 1 << 3;
    pub const WRITING: u16 = 1 << 4;
}

/// Flags of a map.
#[allow(missing_docs)]
pub mod map_flag {
    pub const DEVICE_MAP: u32 = 1;
    pub const HOST_MAP: u32 = 2;
    pub const READ_ONLY: u32 = 4;
    pub const CONTAINS_PTE: u32 = 16;
}

/// `gnttab_map_grant_ref`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Map {
    /// Address to map at.
    pub host_address: u64,
    /// `map_flag` bits.
    pub flags: u32,
    /// Which grant.
    pub reference: u32,
    /// Of whom.
    pub domain: u16,
    /// How it went.
    pub status: i16,
    /// For the unmap.
    pub handle: u32,
    /// Bus address.
    pub bus_address: u64,
}

/// `gnttab_unmap_grant_ref`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Unmap {
    /// Address it was mapped at.
    pub host_address: u64,
    /// Bus address, or 0.
    pub bus_address: u64,
    /// From the map.
    pub handle: u32,
    /// How it went.
    pub status: i16,
}

/// `gnttab_setup_table`.
#[repr(C)]
pub struct Setup {
    /// Whose table.
    pub domain: u16,
    /// How many frames it is to have at least.
    pub frames: u32,
    /// How it went.
    pub status: i16,
    /// Address of the list of their numbers.
    pub list: u64,
}

/// One side of a copy.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Side {
    /// Grant reference (low 32 bits) or frame.
    pub place: u64,
    /// Whose.
    pub domain: u16,
    /// Byte offset in the page.
    pub offset: u16,
}

/// `gnttab_copy`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Copy {
    /// From.
    pub source: Side,
    /// To.
    pub target: Side,
    /// Bytes.
    pub length: u16,
    /// 1: the source is a reference; 2: the target is.
    pub flags: u16,
    /// How it went.
    pub status: i16,
}

/// `grant_table_op(operation, arguments)`.
pub fn many<T>(operation: u64, arguments: &mut [T]) -> i64 {
    let count = arguments.len() as u64;
    hypercall(
        nr::GRANT_TABLE_OP,
        [operation, arguments.as_mut_ptr() as u64, count, 0, 0],
    )
}

/// `grant_table_op` on one argument.
pub fn one<T>(operation: u64, argument: &mut T) -> i64 {
    hypercall(
        nr::GRANT_TABLE_OP,
        [operation, (&raw mut *argument) as u64, 1, 0, 0],
    )
}

/// Maps the first frame of this domain's grant table and gives it.
pub fn table() -> Page {
    arch::map_grant_frame(0);
    Page::at(arch::grant_window())
}

/// Grants `frame` to `domain` under `reference` (version 1).
pub fn grant(reference: u32, domain: u16, frame: u64, flags: u16) {
    let table = Page::at(arch::grant_window());
    let at = u64::from(reference) * 8;
    table.write::<u16>(at + 2, domain);
    table.write::<u32>(at + 4, frame as u32);
    core::sync::atomic::fence(core::sync::atomic::Ordering::SeqCst);
    table.write::<u16>(at, entry::PERMIT_ACCESS | flags);
}

/// Flags of the entry `reference`, as the hypervisor left them.
pub fn flags_of(reference: u32) -> u16 {
    Page::at(arch::grant_window()).read(u64::from(reference) * 8)
}

/// Withdraws a grant; only when nobody uses it.
pub fn revoke(reference: u32) {
    Page::at(arch::grant_window()).write::<u16>(u64::from(reference) * 8, 0);
}
