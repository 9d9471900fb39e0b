//! `memory_op`.

use super::{SELF, call, nr};

#[allow(missing_docs)]
pub mod op {
    pub const INCREASE_RESERVATION: u64 = 0;
    pub const DECREASE_RESERVATION: u64 = 1;
    pub const MAXIMUM_RAM_PAGE: u64 = 2;
    pub const CURRENT_RESERVATION: u64 = 3;
    pub const MAXIMUM_RESERVATION: u64 = 4;
    pub const MACHPHYS_LIST: u64 = 5;
    pub const POPULATE_PHYSMAP: u64 = 6;
    pub const ADD_TO_PHYSMAP: u64 = 7;
    pub const MEMORY_MAP: u64 = 9;
    pub const MACHINE_MEMORY_MAP: u64 = 10;
    pub const EXCHANGE: u64 = 11;
    pub const MACHPHYS_MAPPING: u64 = 12;
    pub const SET_MEMORY_MAP: u64 = 13;
    pub const MAXIMUM_GPFN: u64 = 14;
    pub const REMOVE_FROM_PHYSMAP: u64 = 15;
    pub const ADD_TO_PHYSMAP_BATCH: u64 = 23;
    pub const MACHPHYS_COMPAT_LIST: u64 = 25;
}

#[allow(missing_docs)]
pub mod space {
    pub const SHARED_INFO: u32 = 0;
    pub const GRANT_TABLE: u32 = 1;
    pub const GMFN: u32 = 2;
}

/// `xen_memory_reservation`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Reservation {
    /// Address of the frame array.
    pub extents: u64,
    /// How many extents.
    pub count: u64,
    /// log2 of frames in an extent.
    pub order: u32,
    /// Allocation flags.
    pub flags: u32,
    /// Whose memory.
    pub domain: u16,
}

/// A reservation call on frames of this domain; gives how many were done.
pub fn reservation(operation: u64, frames: &mut [u64], order: u32) -> i64 {
    let mut argument = Reservation {
        extents: frames.as_mut_ptr() as u64,
        count: frames.len() as u64,
        order,
        flags: 0,
        domain: SELF,
    };
    call(nr::MEMORY_OP, operation, &mut argument)
}

/// `xen_memory_exchange`.
#[repr(C)]
pub struct Exchange {
    /// What goes.
    pub given: Reservation,
    /// What comes: the physical numbers, and then the frames.
    pub wanted: Reservation,
    /// How many extents of the first are done.
    pub done: u64,
}

/// Exchanges frames of this domain; the errno, and how many extents are done.
pub fn exchange_of(
    given: &mut [u64],
    given_order: u32,
    wanted: &mut [u64],
    wanted_order: u32,
    flags: u32,
) -> (i64, u64) {
    let side = |frames: &mut [u64], order: u32| Reservation {
        extents: frames.as_mut_ptr() as u64,
        count: frames.len() as u64,
        order,
        flags,
        domain: SELF,
    };
    let mut argument = Exchange {
        given: side(given, given_order),
        wanted: side(wanted, wanted_order),
        done: 0,
    };
    let errno = call(nr::MEMORY_OP, op::EXCHANGE, &mut argument);
    (errno, argument.done)
}

/// `xen_add_to_physmap`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct AddToPhysmap {
    /// Whose map.
    pub domain: u16,
    /// Frame count, for a range.
    pub size: u16,
    /// One of `space`.
    pub space: u32,
    /// What of that space.
    pub index: u64,
    /// Where to.
    pub frame: u64,
}

/// Maps `index` of `space` at `frame`.
pub fn add_to_physmap(space: u32, index: u64, frame: u64) -> i64 {
    let mut argument = AddToPhysmap {
        domain: SELF,
        size: 0,
        space,
        index,
        frame,
    };
    call(nr::MEMORY_OP, op::ADD_TO_PHYSMAP, &mut argument)
}

/// Empties `frame`.
pub fn remove_from_physmap(frame: u64) -> i64 {
    #[repr(C)]
    struct Argument(u16, u64);
    call(
        nr::MEMORY_OP,
        op::REMOVE_FROM_PHYSMAP,
        &mut Argument(SELF, frame),
    )
}
