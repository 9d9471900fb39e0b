//! The boards: one short file of data each, listed here.
//!
//! To add one: a file beside this one with a `Board`, its name in `ALL`, and the board is in `run`, `smoke`, `test`,
//! `image` and `boards`.

mod qemu_pc;
mod qemu_q35;
mod qemu_virt;
mod qemu_virt_gicv2;
mod qemu_virt_riscv64;
mod zcu102;

use anyhow::{Result, bail};

use crate::arch::Arch;

/// All boards; the first one of an architecture is its default.
pub(crate) const ALL: &[&Board] = &[
    &qemu_virt::BOARD,
    &qemu_virt_gicv2::BOARD,
    &zcu102::BOARD,
    &qemu_virt_riscv64::BOARD,
    &qemu_q35::BOARD,
    &qemu_pc::BOARD,
];

/// What xtask must know of a board to run it in an emulator and to make a disk image for it.
#[derive(Debug)]
pub(crate) struct Board {
    /// The name on the command line.
    pub(crate) name: &'static str,
    /// Its processors.
    pub(crate) arch: Arch,
    /// One line for `cargo xtask boards`.
    pub(crate) summary: &'static str,
    /// The drivers that an image must have to use it, by the names of their Cargo features.
    pub(crate) drivers: &'static [&'static str],
    /// QEMU's words for the machine, without processors, memory and console.
    pub(crate) qemu: &'static [&'static str],
    /// The processor model, where the machine lets one choose.
    pub(crate) cpu: Option<&'static str>,
    /// Processors unless `--smp` says otherwise.
    pub(crate) cpus: u32,
    /// The most processors that the machine has.
    pub(crate) most_cpus: u32,
    /// Memory in MiB unless `--memory` says otherwise.
    pub(crate) memory: u64,
    /// The physical address of the first byte of memory.
    pub(crate) memory_start: u64,
    /// The hypervisor's own words that this board needs, spelled as Xen spells them.
    pub(crate) words: &'static str,
    /// How the hypervisor learns of the boot modules.
    pub(crate) modules: Modules,
    /// How far the port has come.
    pub(crate) stage: Stage,
    /// How its U-Boot starts from a disk image, if `image` can make one.
    pub(crate) uboot: Option<UBoot>,
}

/// How boot modules get into memory and into the device tree.
#[derive(Debug)]
pub(crate) enum Modules {
    /// QEMU's `guest-loader` device does both.
    GuestLoader,
    /// Plain loading, and a device tree from Debian's kernel package that xtask completes.
    DeviceTree {
        /// The file below the kernel package's folder of device trees.
        file: &'static str,
        /// Device tree source appended to it: where the emulator differs from the chip.
        corrections: &'static str,
    },
    /// As modules of a Multiboot loader, which QEMU is.
    Multiboot,
    /// Plain loading, and the machine's own device tree, completed with modules of dom0 or a `xen,domain` for the kernel.
    Plain,
}

/// How far a port has come, which decides what `smoke` asks of it.
#[derive(Debug)]
pub(crate) enum Stage {
    /// Debian Linux runs as dom0.
    Dom0,
    /// Debian Linux runs as dom0 or as the first domain and knows of no Xen: no kernel for this architecture does.
    Domain,
}

impl Stage {
    /// The word that gives Linux its console.
    pub(crate) const fn console(&self) -> &'static str {
        match self {
            Self::Dom0 => "console=hvc0",
            Self::Domain => "console=ttyS0",
        }
    }
}

/// How U-Boot on the board reads the disk image.
#[derive(Debug)]
pub(crate) struct UBoot {
    /// U-Boot's name of the disk, as in `load INTERFACE 0:1 …`.
    pub(crate) interface: &'static str,
    /// U-Boot's variable that holds the address of the machine's device tree; none if the image carries the tree.
    pub(crate) tree_address: Option<&'static str>,
    /// QEMU's word for the firmware, and its file below Debian's folder of U-Boots; none if the emulator cannot start it.
    pub(crate) firmware: Option<(&'static str, &'static str)>,
    /// QEMU's words that attach the disk image `{image}`.
    pub(crate) disk: &'static [&'static str],
}

/// The board of this name, or the first of the architecture; the first of the default one where nothing is named.
pub(crate) fn find(name: Option<&str>, arch: Option<Arch>) -> Result<&'static Board> {
    let Some(name) = name else {
        let arch = arch.unwrap_or(Arch::DEFAULT);
        return match ALL.iter().find(|board| board.arch == arch) {
            Some(board) => Ok(board),
            None => bail!("no board of this architecture: `cargo xtask boards` lists them"),
        };
    };
    match (ALL.iter().find(|board| board.name == name), arch) {
        (Some(board), Some(arch)) if board.arch != arch => {
            bail!(
                "board {name} is {}, not {}: leave --arch out or choose another board",
                board.arch.name(),
                arch.name()
            )
        }
        (Some(board), _) => Ok(board),
        (None, _) => bail!(
            "no board is called {name}; there are: {}",
            ALL.iter()
                .map(|board| board.name)
                .collect::<Vec<_>>()
                .join(", ")
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_architecture_has_a_default_board() {
        for arch in Arch::ALL {
            assert_eq!(find(None, Some(arch)).unwrap().arch, arch);
        }
        assert_eq!(find(None, None).unwrap().arch, Arch::DEFAULT);
    }

    #[test]
    fn a_board_is_found_without_its_architecture_and_refused_with_another() {
        assert_eq!(find(Some("qemu-q35"), None).unwrap().arch, Arch::X86_64);
        assert!(find(Some("qemu-q35"), Some(Arch::Aarch64)).is_err());
        assert!(
            find(Some("no-such-board"), None)
                .unwrap_err()
                .to_string()
                .contains("zcu102")
        );
    }

    #[test]
    fn names_are_distinct() {
        let mut names: Vec<_> = ALL.iter().map(|board| board.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len());
    }
}
