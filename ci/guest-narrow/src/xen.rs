//! Hypercalls as a 32-bit caller makes them. Structures are those of the public headers, compiled for 32 bits: here by the
//! compiler's own layout, apart from the one that Xenolith works out.
#![allow(missing_docs)]

use crate::machine::{Page, call, named};

/// Oneself.
pub const SELF: u16 = 0x7ff0;

pub mod nr {
    pub const MEMORY: u32 = 12;
    pub const MULTICALL: u32 = 13;
    pub const SET_TIMER: u32 = 15;
    pub const VERSION: u32 = 17;
    pub const CONSOLE: u32 = 18;
    pub const GRANT_TABLE: u32 = 20;
    pub const VCPU: u32 = 24;
    pub const SCHED: u32 = 29;
    pub const EVENT: u32 = 32;
    pub const HVM: u32 = 34;
}

/// `xen_memory_reservation`.
#[repr(C)]
pub struct Reservation {
    pub frames: u32,
    pub count: u32,
    pub order: u32,
    pub flags: u32,
    pub domain: u16,
}

/// `xen_add_to_physmap`.
#[repr(C)]
pub struct AddToPhysmap {
    pub domain: u16,
    pub size: u16,
    pub space: u32,
    pub index: u32,
    pub frame: u32,
}

/// `multicall_entry`.
#[repr(C)]
#[derive(Default)]
pub struct Multicall {
    pub number: u32,
    pub result: i32,
    pub arguments: [u32; 6],
}

/// `gnttab_setup_table`.
#[repr(C)]
pub struct SetupTable {
    pub domain: u16,
    pub count: u32,
    pub status: i16,
    pub frames: u32,
}

/// `sched_poll`.
#[repr(C)]
pub struct Poll {
    pub ports: u32,
    pub count: u32,
    pub timeout: u64,
}

/// `vcpu_set_singleshot_timer`.
#[repr(C)]
pub struct SingleShot {
    pub at: u64,
    pub flags: u32,
}

/// `vcpu_runstate_info`, and what lies behind it.
#[repr(C)]
#[derive(Default)]
pub struct Runstate {
    pub state: u32,
    pub since: [u32; 2],
    pub times: [[u32; 2]; 4],
    pub behind: u32,
}

/// A call with an operation and a structure.
pub fn operate<T>(number: u32, operation: u32, argument: &mut T) -> i32 {
    call(number, [operation, named(argument), 0])
}

/// The same of this vCPU.
pub fn vcpu<T>(operation: u32, argument: &mut T) -> i32 {
    call(nr::VCPU, [operation, 0, named(argument)])
}

/// Writes to the hypervisor's console.
pub fn console(text: &[u8]) {
    call(nr::CONSOLE, [0, text.len() as u32, named(text.as_ptr())]);
}

/// `XENMEM_add_to_physmap` of the shared page.
pub fn map_shared_info(page: &Page) -> i32 {
    let mut argument = AddToPhysmap {
        domain: SELF,
        size: 0,
        space: 0,
        index: 0,
        frame: page.frame(),
    };
    operate(nr::MEMORY, 7, &mut argument)
}

/// `HVMOP_set_param`.
pub fn set_param(index: u32, value: u64) -> i32 {
    #[repr(C)]
    struct Param(u16, u16, u32, [u32; 2]);
    let halves = [value as u32, (value >> 32) as u32];
    operate(nr::HVM, 0, &mut Param(SELF, 0, index, halves))
}

/// `SCHEDOP_shutdown`.
pub fn shut_down(mut reason: u32) {
    operate(nr::SCHED, 2, &mut reason);
}
