//! The hypervisor's virtual address space at EL2: 48 bits, one level-0 slot of 512 GiB per use.
//!
//! | slot | what |
//! |---|---|
//! | 252 | CPU stacks, each with an unmapped page below |
//! | 253 | the host's device tree, read-only, while booting |
//! | 254 | device registers, mapped as drivers ask |
//! | 255 | the image: text, rodata, data, one page table |
//! | 256.. | the direct map: all RAM but the image, at its physical address |
//!
//! While CPUs come up, one block at the image's physical address is mapped too (read and execute), in a lower slot.

/// Where the image is linked (`targets/aarch64.ld`).
pub const IMAGE_VA: u64 = 0x0000_7f80_0000_0000;
/// The image's level-0 slot.
pub const L0_IMAGE_SLOT: usize = 255;
/// First address of the device window.
pub const DEVICE_VA: u64 = 254 << 39;
/// First address of the device tree's window.
pub const FDT_VA: u64 = 253 << 39;
/// First address of the CPU stacks.
pub const STACK_VA: u64 = 252 << 39;
/// Address of physical address 0 in the direct map.
pub const DIRECT_VA: u64 = 256 << 39;
/// Physical addresses at or above this have no place in the direct map.
pub const DIRECT_LIMIT: u64 = 1 << 47;
/// Bytes of a page.
pub const PAGE: u64 = 4096;
