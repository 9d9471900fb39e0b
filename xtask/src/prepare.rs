//! From command-line options to a machine that can be started: checks the tools, builds, fetches, makes the root.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};

use crate::arch::Arch;
use crate::boards::{self, Board, Modules};
use crate::emulator::{Boot, Dom0, Emulator, Files, Machine};
use crate::fetch::Debian;
use crate::verbs::build::{self, Features};
use crate::verbs::image::Grub;
use crate::verbs::{image, setup};
use crate::{bochs, paths, rootfs};

/// How dom0 runs on x86-64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Dom0Kind {
    /// Paravirtualised, in ring 3
    Pv,
    /// In hardware, without emulated devices
    Pvh,
}

/// Options that choose a machine and what it boots; `run` and `smoke` share them.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct MachineArgs {
    /// Board to run (`cargo xtask boards` lists them) [default: the first of the architecture]
    #[arg(long, value_name = "NAME")]
    pub(crate) board: Option<String>,
    /// Number of CPUs [default: the board's, usually 4; in Bochs 2]
    #[arg(long, value_name = "N")]
    pub(crate) smp: Option<u32>,
    /// Memory, in MiB or with a suffix M or G [default: 2G; in Bochs 768M]
    #[arg(long, value_name = "SIZE", value_parser = memory)]
    pub(crate) memory: Option<u64>,
    /// Processor model, as the emulator names it [default: the board's]
    #[arg(long, value_name = "MODEL")]
    pub(crate) cpu: Option<String>,
    /// How dom0 runs, on x86_64 [default: pvh where the processor can, else pv]
    #[arg(long, value_name = "KIND")]
    pub(crate) dom0: Option<Dom0Kind>,
    /// Start the kernel as the first `xen,domain` of the device tree, with control, instead of as dom0; on riscv64
    #[arg(long)]
    pub(crate) domain: bool,
    /// Kernel for dom0 instead of Debian's (which Bochs gets unpacked, because unpacking takes it minutes)
    #[arg(long, value_name = "FILE")]
    pub(crate) kernel: Option<PathBuf>,
    /// Initial root for dom0 instead of the one made from busybox
    #[arg(long, value_name = "FILE")]
    pub(crate) initrd: Option<PathBuf>,
    /// Words added to dom0's command line
    #[arg(long, value_name = "WORDS", allow_hyphen_values = true)]
    pub(crate) append: Option<String>,
    /// Words added to Xenolith's own command line, for example "loglvl=all dom0_mem=512M"
    #[arg(long, value_name = "WORDS", allow_hyphen_values = true)]
    pub(crate) xen_append: Option<String>,
    /// Boot from a disk image by U-Boot (see `cargo xtask image`) instead of loading the files directly
    #[arg(long)]
    pub(crate) uboot: bool,
    /// Boot from an image by GRUB (see `cargo xtask image`) instead of loading the files directly
    #[arg(long, value_name = "FROM", conflicts_with = "uboot")]
    pub(crate) grub: Option<Grub>,
    /// The emulator; Bochs is for x86_64, and has Intel's VMX
    #[arg(long, value_name = "NAME", default_value = "qemu")]
    pub(crate) emulator: Emulator,
    /// Seconds until the machine is stopped by force
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) timeout: Option<u64>,
    #[command(flatten)]
    pub(crate) features: Features,
    /// Run Debian's Xen in place of Xenolith, to compare with
    #[arg(long, hide = true)]
    pub(crate) reference: bool,
}

impl MachineArgs {
    /// The board that the options choose.
    pub(crate) fn board(&self, arch: Option<Arch>) -> Result<&'static Board> {
        boards::find(self.board.as_deref(), arch)
    }

    /// The time limit, with the one to use where none was given.
    pub(crate) fn limit(&self, otherwise: u64) -> Duration {
        Duration::from_secs(self.timeout.unwrap_or(otherwise))
    }

    /// Makes everything that the machine needs, and describes it.
    pub(crate) fn machine(&self, arch: Option<Arch>) -> Result<Machine> {
        let board = self.board(arch)?;
        if self.dom0.is_some() && board.arch != Arch::X86_64 {
            bail!(
                "--dom0 chooses how dom0 runs on x86_64; {} has one kind: leave it out",
                board.name
            );
        }
        if self.domain && self.uboot {
            bail!("--uboot starts the kernel as dom0: leave --domain out");
        }
        if self.domain && !matches!(board.modules, Modules::Plain) {
            bail!(
                "--domain is for riscv64; on {} the kernel is dom0: leave it out",
                board.name
            );
        }
        match self.emulator {
            Emulator::Qemu => self.machine_of(board),
            Emulator::Bochs => bochs::options(self, board)?.machine_of(board),
        }
    }

    fn machine_of(&self, board: &'static Board) -> Result<Machine> {
        setup::ensure(board.arch)?;
        let files = self.files(board)?;
        let boot = match self.grub {
            Some(grub) => image::boot_by_grub(board, &files, grub, self.reference)?,
            None if self.uboot => image::boot_by_uboot(board, &files, self.reference)?,
            None => Boot::Direct(files),
        };
        let mut machine = Machine::new(board, boot);
        machine.on = self.emulator;
        machine.has_dom0 = !self.domain;
        machine.cpus = self.smp.unwrap_or(board.cpus);
        machine.memory = self.memory.unwrap_or(board.memory);
        machine.cpu = self.cpu.clone();
        Ok(machine)
    }

    /// The files that the machine boots, and their command lines.
    pub(crate) fn files(&self, board: &'static Board) -> Result<Files> {
        let hypervisor = self.hypervisor(board)?;
        Ok(Files {
            hypervisor,
            words: self.words(board, true),
            dom0: Some(self.dom0(board)?),
        })
    }

    /// The hypervisor with no domain to start.
    pub(crate) fn hypervisor_alone(&self, board: &Board) -> Result<Files> {
        Ok(Files {
            hypervisor: self.hypervisor(board)?,
            words: self.words(board, false),
            dom0: None,
        })
    }

    fn hypervisor(&self, board: &Board) -> Result<PathBuf> {
        if self.reference {
            return Debian::fetch(board.arch)?.xen();
        }
        for driver in board.drivers {
            if self.features.leave_out(driver) {
                eprintln!(
                    "warning: board {} needs the driver {driver}, which this image leaves out: add it to --features",
                    board.name
                );
            }
        }
        Ok(build::hypervisor_with(board.arch, &self.features)?.bin)
    }

    fn dom0(&self, board: &Board) -> Result<Dom0> {
        let kernel = match &self.kernel {
            Some(file) => existing(file)?,
            None => Debian::fetch(board.arch)?.kernel()?,
        };
        let initrd = match (&self.initrd, &self.kernel) {
            (Some(file), _) => existing(file)?,
            (None, _) => rootfs::dom0(board.arch.name(), &Debian::fetch(board.arch)?.busybox())?,
        };
        Ok(Dom0 {
            kernel,
            initrd: Some(initrd),
            words: joined(&[board.stage.console(), self.append.as_deref().unwrap_or("")]),
        })
    }

    /// The hypervisor's command line: half of the memory is dom0's unless told otherwise.
    fn words(&self, board: &Board, dom0: bool) -> String {
        let given = self.xen_append.as_deref().unwrap_or("");
        let share = (self.memory.unwrap_or(board.memory) / 2).min(1024);
        let memory = if !dom0 || self.domain || given.contains("dom0_mem=") {
            String::new()
        } else {
            format!("dom0_mem={share}M")
        };
        let kind = self.dom0.filter(|_| dom0);
        let kind = kind.map_or("", |kind| self.kind_words(kind));
        joined(&[board.words, kind, &memory, given])
    }

    /// The words that say how dom0 runs. Xen runs a PVH dom0 without an IOMMU only when told so.
    fn kind_words(&self, kind: Dom0Kind) -> &'static str {
        match (kind, self.reference) {
            (Dom0Kind::Pv, _) => "dom0=pv",
            (Dom0Kind::Pvh, false) => "dom0=pvh",
            (Dom0Kind::Pvh, true) => "dom0=pvh dom0-iommu=none",
        }
    }
}

/// Whether the root, and so its prompt, is the one that xtask makes.
pub(crate) fn has_our_root(args: &MachineArgs) -> bool {
    args.initrd.is_none()
}

fn existing(file: &std::path::Path) -> Result<PathBuf> {
    if !file.is_file() {
        bail!("there is no file {}", file.display());
    }
    if paths::read(file)?.is_empty() {
        bail!("the file {} is empty", file.display());
    }
    Ok(std::path::absolute(file)?)
}

fn joined(words: &[&str]) -> String {
    words
        .iter()
        .copied()
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}

/// Parses an amount of memory into MiB.
fn memory(text: &str) -> Result<u64, String> {
    let wrong =
        || format!("\"{text}\" is no amount of memory: write MiB, or for example 512M or 2G");
    let (number, factor) = match text.strip_suffix(['G', 'g']) {
        Some(number) => (number, 1024),
        None => (text.strip_suffix(['M', 'm']).unwrap_or(text), 1),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    number
        .checked_mul(factor)
        .filter(|&mib| mib > 0 && mib <= 1 << 20)
        .ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_mebibytes_unless_a_suffix_says_gigabytes() {
        assert_eq!(memory("2G"), Ok(2048));
        assert_eq!(memory("512M"), Ok(512));
        assert_eq!(memory("512"), Ok(512));
        assert!(
            memory("0").is_err()
                && memory("2T").is_err()
                && memory("99999999999999999999G").is_err()
        );
    }

    #[test]
    fn how_dom0_runs_is_said_where_there_is_one() {
        let board = boards::find(None, Some(Arch::X86_64)).unwrap();
        let of = |kind, reference| MachineArgs {
            dom0: Some(kind),
            reference,
            ..MachineArgs::default()
        };
        let words = |args: MachineArgs| args.words(board, true);
        assert_eq!(
            words(of(Dom0Kind::Pv, false)),
            "console=com1 dom0=pv dom0_mem=1024M"
        );
        assert!(words(of(Dom0Kind::Pv, true)).contains("dom0=pv "));
        assert!(words(of(Dom0Kind::Pvh, false)).contains("dom0=pvh dom0_mem"));
        assert!(words(of(Dom0Kind::Pvh, true)).contains("dom0-iommu=none"));
        assert_eq!(of(Dom0Kind::Pv, false).words(board, false), "console=com1");
        assert!(
            of(Dom0Kind::Pv, false)
                .machine(Some(Arch::Aarch64))
                .is_err()
        );
    }

    #[test]
    fn the_users_own_dom0_mem_replaces_ours() {
        let board = boards::find(None, Some(Arch::Aarch64)).unwrap();
        let args = MachineArgs {
            xen_append: Some("dom0_mem=64M".into()),
            ..MachineArgs::default()
        };
        assert_eq!(args.words(board, true), "console=dtuart dom0_mem=64M");
        assert_eq!(
            MachineArgs::default().words(board, true),
            "console=dtuart dom0_mem=1024M"
        );
    }
}
