//! The hypervisor's virtual address space: Sv39, the upper half, one root slot of 1 GiB per use.
//!
//! Every CPU with pages has Sv39, and its 256 GiB for the hypervisor hold the direct map of any machine that has the H
//! extension today; RAM above [`DIRECT_LIMIT`] is left alone.
//!
//! | slots | what |
//! |---|---|
//! | 256..=383 | the direct map: RAM but the image, at its physical address |
//! | 508 | CPU stacks, each with an unmapped page below |
//! | 509 | the host's device tree, read-only |
//! | 510 | device registers, mapped as drivers ask |
//! | 511 | the image: text, rodata, data, one page table |

/// First address of the upper half.
const UPPER: u64 = 0xffff_ffc0_0000_0000;

const fn slot(number: u64) -> u64 {
    UPPER + ((number - 256) << 30)
}

/// Where the image is linked (`targets/riscv64.ld`).
pub const IMAGE_VA: u64 = slot(511);
/// First address of the device window.
pub const DEVICE_VA: u64 = slot(510);
/// First address of the device tree's window.
pub const FDT_VA: u64 = slot(509);
/// First address of the CPU stacks.
pub const STACK_VA: u64 = slot(508);
/// Address of physical address 0 in the direct map.
pub const DIRECT_VA: u64 = slot(256);
/// Physical addresses at or above this have no place in the direct map.
pub const DIRECT_LIMIT: u64 = 1 << 37;
