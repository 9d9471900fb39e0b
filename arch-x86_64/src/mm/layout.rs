//! The hypervisor's virtual address space: 48 bits, in the 16 root slots of 512 GiB (256 to 271) that every PV guest leaves
//! to the hypervisor (`arch-x86/xen-x86_64.h`, `HYPERVISOR_VIRT_START`).
//!
//! | slots | what |
//! |---|---|
//! | 256 | what PV guests call each machine frame, for them to read |
//! | 257 | the same, to be written |
//! | 258 | what boot loader and firmware left in memory, read-only |
//! | 259 | CPU stacks, each with an unmapped page below |
//! | 260 | device registers, mapped as drivers ask |
//! | 261, 1st GiB | what 32-bit PV guests will call each machine frame, four bytes each |
//! | 261, 2nd GiB | the image: text, rodata, data, one page table |
//! | 262..=269 | the direct map: RAM but the image, at its physical address |

const fn slot(number: u64) -> u64 {
    0xffff_0000_0000_0000 | number << 39
}

/// Where the image is linked (`targets/x86_64.ld`).
pub const IMAGE_VA: u64 = 0xffff_82d0_4000_0000;
/// The image's slot in each level of tables, from the root on; in the last level it starts with the first.
pub const IMAGE_SLOTS: [u64; 3] = [
    IMAGE_VA >> 39 & 511,
    IMAGE_VA >> 30 & 511,
    IMAGE_VA >> 21 & 511,
];
/// The root slots that are the hypervisor's in every address space.
pub const ROOT_SLOTS: core::ops::Range<usize> = 256..272;
/// First address of what PV guests call each machine frame.
pub const MACHINE_TO_PHYS_VA: u64 = slot(257);
/// First address of the same for 32-bit guests, whose own window on it is [`COMPAT_MACHINE_TO_PHYS_SIZE`] bytes.
pub const COMPAT_MACHINE_TO_PHYS_VA: u64 = slot(261);
/// Bytes that a 32-bit guest sees of it (`arch-x86/xen-x86_32.h`, `MACH2PHYS_VIRT_START_PAE` to `MACH2PHYS_VIRT_END_PAE`).
pub const COMPAT_MACHINE_TO_PHYS_SIZE: u64 = 0xf680_0000 - 0xf580_0000;
/// First address of the window on boot information.
pub const FIRMWARE_VA: u64 = slot(258);
/// First address of the CPU stacks.
pub const STACK_VA: u64 = slot(259);
/// First address of the device window.
pub const DEVICE_VA: u64 = slot(260);
/// Address of physical address 0 in the direct map.
pub const DIRECT_VA: u64 = slot(262);
/// Physical addresses at or above this have no place in the direct map.
pub const DIRECT_LIMIT: u64 = 1 << 42;

const _: () = assert!(IMAGE_SLOTS[0] == 261 && IMAGE_VA.trailing_zeros() >= 21);
// They share a root slot, not the table of the third level's entry.
const _: () = assert!(
    COMPAT_MACHINE_TO_PHYS_VA + COMPAT_MACHINE_TO_PHYS_SIZE <= IMAGE_VA & !((1 << 30) - 1)
        && COMPAT_MACHINE_TO_PHYS_SIZE <= 1 << 30
);
