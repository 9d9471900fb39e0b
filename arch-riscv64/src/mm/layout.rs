//! The hypervisor's virtual address space: Sv39, or Sv48 where RAM is too much for that.
//!
//! All addresses are the same in both: the 256 GiB of each half that Sv39 has are the outermost of what Sv48 has (Privileged
//! Architecture, "Sv48"). The lower half is the hypervisor's like the upper one, as guests have translation of their own.
//!
//! | from | to | what |
//! |---|---|---|
//! | 128 GiB | 256 GiB, or 64 TiB more with Sv48 | the direct map: RAM but the image, at its physical address |
//! | -4 GiB | -3 GiB | CPU stacks, each with an unmapped page below |
//! | -3 GiB | -2 GiB | the host's device tree, read-only |
//! | -2 GiB | -1 GiB | device registers, mapped as drivers ask |
//! | -1 GiB | 0 | the image: text, rodata, data, one page table |

const GIB: u64 = 1 << 30;

/// Where the image is linked (`targets/riscv64.ld`).
pub const IMAGE_VA: u64 = GIB.wrapping_neg();
/// First address of the device window.
pub const DEVICE_VA: u64 = (2 * GIB).wrapping_neg();
/// First address of the device tree's window.
pub const FDT_VA: u64 = (3 * GIB).wrapping_neg();
/// First address of the CPU stacks.
pub const STACK_VA: u64 = (4 * GIB).wrapping_neg();
/// Address of physical address 0 in the direct map: far enough from 0 that a physical address taken for a virtual one
/// faults, on most machines.
pub const DIRECT_VA: u64 = 128 * GIB;
/// Physical addresses at or above this never have a place in the direct map.
pub const DIRECT_LIMIT: u64 = 1 << 46;
/// Where the direct map ends with Sv39, as a physical address.
pub const DIRECT_END_SV39: u64 = (1 << 38) - DIRECT_VA;

const _: () = assert!(DIRECT_VA + DIRECT_LIMIT <= 1 << 47);
const _: () = assert!(DIRECT_END_SV39 <= DIRECT_LIMIT);
