//! From the host's device tree to domains, as pure code: the command line, boot modules and `xen,domain` nodes, the
//! memory map, kernel images, and where each domain's parts go in memory.
//!
//! Nothing here touches the machine. The order of use is: [`fdt::Tree::parse`], [`modules::BootInfo::from_tree`],
//! [`cmdline::parse`], [`memory::BootMemory`], [`image::Kernel::parse`], [`placement::plan_dom0`]. Input is hostile:
//! every failure is a value whose `Display` is one line that names what is wrong and what to do.

pub mod bzimage;
pub mod cmdline;
pub mod console;
pub mod decompress;
pub mod elf;
pub mod fdt;
pub mod gzip;
pub mod image;
pub mod initrd;
pub mod memory;
pub mod modules;
pub mod placement;
pub mod range;
mod zstd;

pub use range::{PhysRange, RangeSet};

#[cfg(test)]
mod tests;
