//! Building PV guests: their memory at the start, its page tables, and what they find there. Pure; the caller gives memory
//! and a way to write it.
//!
//! What a PV kernel may rely on stands in `xen.h` ("Start-of-day memory layout"). Order of use:
//! [`xenolith_core::boot::elf::pv::PvKernel`], [`layout::Layout::new`], memory for at least [`layout::Layout::used`] frames
//! into a [`frames::FrameMap`], [`image::Image::write`], the rest of the memory, [`image::Image::finish`],
//! [`start::PvStart`].

pub mod frames;
pub mod fuzz;
pub mod hypercall_page;
pub mod image;
pub mod layout;
pub mod start;
pub mod start_info;
pub mod tables;

#[cfg(test)]
mod tests;
