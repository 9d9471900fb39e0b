//! Where the boot modules go in the machine's memory, so that nothing overlaps.
//!
//! The order from the start of memory: the hypervisor, the device tree, the kernel, the initrd. QEMU decides the first
//! two: the image goes to the first 2 MiB boundary, the device tree to the middle of memory or 128 MiB above its start,
//! whichever is lower (`hw/arm/boot.c`).

use anyhow::{Result, bail};

const MIB: u64 = 1 << 20;
/// Modules start at such addresses.
pub(crate) const BOUNDARY: u64 = 2 * MIB;
/// Room for the device tree that QEMU makes.
const TREE_ROOM: u64 = 2 * MIB;

/// A range of physical memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The first byte.
    pub(crate) address: u64,
    /// The length in bytes.
    pub(crate) size: u64,
}

impl Place {
    /// The first byte behind it.
    pub(crate) fn end(self) -> u64 {
        self.address + self.size
    }
}

/// The modules' places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    /// The kernel.
    pub(crate) kernel: Place,
    /// The initrd, if there is one.
    pub(crate) initrd: Option<Place>,
}

/// The sizes that a layout is made from, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    /// The hypervisor's image with its zeroed data.
    pub(crate) hypervisor: u64,
    /// The kernel file.
    pub(crate) kernel: u64,
    /// The initrd file.
    pub(crate) initrd: Option<u64>,
}

/// Places the modules in memory that starts at `start` and is `memory` bytes long.
pub(crate) fn place(start: u64, memory: u64, sizes: Sizes) -> Result<Layout> {
    let hypervisor = Place {
        address: start + BOUNDARY,
        size: sizes.hypervisor,
    };
    let tree = (start + (memory / 2).min(128 * MIB))
        .max(hypervisor.end())
        .next_multiple_of(BOUNDARY);
    let (kernel, initrd) = stack(tree + TREE_ROOM, sizes);
    fits(initrd.unwrap_or(kernel).end(), start, memory)?;
    Ok(Layout { kernel, initrd })
}

/// Places for a boot loader that is told where to load everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DiskLayout {
    /// The hypervisor.
    pub(crate) hypervisor: u64,
    /// The device tree.
    pub(crate) tree: u64,
    /// The domains' files.
    pub(crate) modules: Layout,
}

/// Places everything from 128 MiB above the start of memory, which U-Boot leaves free: it sits at the top of memory and
/// keeps its scripts at the bottom.
pub(crate) fn place_for_boot_loader(start: u64, memory: u64, sizes: Sizes) -> Result<DiskLayout> {
    let hypervisor = start + 128 * MIB;
    let tree = (hypervisor + sizes.hypervisor + BOUNDARY).next_multiple_of(BOUNDARY);
    let (kernel, initrd) = stack(tree + TREE_ROOM, sizes);
    fits(initrd.unwrap_or(kernel).end(), start, memory)?;
    Ok(DiskLayout {
        hypervisor,
        tree,
        modules: Layout { kernel, initrd },
    })
}

/// The kernel at `from`, and the initrd behind it.
fn stack(from: u64, sizes: Sizes) -> (Place, Option<Place>) {
    let kernel = Place {
        address: from,
        size: sizes.kernel,
    };
    // A kernel's zeroed data lies behind its file; leave room as a loader of the bare kernel would.
    let behind = (kernel.end() + 4 * MIB).next_multiple_of(BOUNDARY);
    (
        kernel,
        sizes.initrd.map(|size| Place {
            address: behind,
            size,
        }),
    )
}

fn fits(end: u64, start: u64, memory: u64) -> Result<()> {
    if end > start + memory {
        let (needed, memory) = ((end - start).div_ceil(MIB), memory / MIB);
        bail!(
            "the boot files need {needed} MiB and the machine has {memory} MiB: give it more with --memory"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: u64 = 0x4000_0000;

    fn sizes(kernel: u64, initrd: u64) -> Sizes {
        Sizes {
            hypervisor: MIB,
            kernel,
            initrd: Some(initrd),
        }
    }

    #[test]
    fn nothing_overlaps_whatever_the_sizes() {
        for memory in [64, 128, 256, 512, 2048] {
            for kernel in [1, MIB, 7 * MIB + 3] {
                let layout = place(START, memory * MIB, sizes(kernel, 5 * MIB)).unwrap();
                let initrd = layout.initrd.unwrap();
                let tree = START + (memory * MIB / 2).min(128 * MIB);
                assert!(layout.kernel.address >= tree + TREE_ROOM);
                assert!(initrd.address >= layout.kernel.end());
                assert!(initrd.end() <= START + memory * MIB);
                assert_eq!(layout.kernel.address % BOUNDARY, 0);
            }
        }
    }

    #[test]
    fn a_boot_loaders_places_do_not_overlap() {
        let places = place_for_boot_loader(START, 2048 * MIB, sizes(33 * MIB, MIB)).unwrap();
        assert!(places.tree >= places.hypervisor + MIB);
        assert!(places.modules.kernel.address >= places.tree + TREE_ROOM);
        assert!(places.modules.initrd.unwrap().address >= places.modules.kernel.end());
        assert!(place_for_boot_loader(START, 128 * MIB, sizes(33 * MIB, MIB)).is_err());
    }

    #[test]
    fn too_little_memory_says_how_much_is_needed() {
        let error = place(START, 64 * MIB, sizes(33 * MIB, MIB))
            .unwrap_err()
            .to_string();
        assert!(error.contains("--memory"), "{error}");
    }
}
