//! What architectures with four-kilobyte pages and nine-bit table levels share: the direct map, the page-table walk, the
//! heap, the way from a memory map to an allocator, and the console's last step.
//!
//! An architecture names its address space and its page-table entries once ([`Paging`]); everything here is generic over
//! that. Nothing here holds an instruction or a register of one of them.
#![no_std]
#![allow(
    unsafe_code,
    reason = "this is where machine memory becomes Rust memory; each block says why it is sound"
)]

extern crate alloc;

pub mod boot_memory;
mod clock;
pub mod console;
mod direct;
pub mod dom0;
mod heap;
mod input;
mod lent;
mod paging;
pub mod second_level;
mod supply;
mod transmit;

pub use clock::Clock;
pub use direct::{Direct, RamFrame, add_bank, is_in_largest_bank, is_ram, is_ram_of_two};
pub use heap::{DirectMap, Heap, heap_use, refill_reserve, set_source, with_room};
pub use input::Input;
pub use paging::{Access, Entry, Image, Paging, Tables};
pub use supply::FrameSource;
