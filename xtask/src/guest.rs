//! Runs one of our test guests as dom0, on Xenolith or on Debian's Xen, and reads its results.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::arch::Arch;
use crate::boards::Board;
use crate::console::{Console, Echo};
use crate::domains::{self, Domain};
use crate::emulator::{Boot, Dom0, Emulator, Files, Machine, Terminal};
use crate::fetch::Debian;
use crate::grub;
use crate::results::{self, Results};
use crate::verbs::build::{self, Built};

/// Which hypervisor a guest runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum On {
    /// Ours.
    Xenolith,
    /// Debian's, to compare with.
    Xen,
}

impl On {
    /// The name in file names and messages.
    pub(crate) fn name(self) -> &'static str {
        match self {
            On::Xenolith => "xenolith",
            On::Xen => "xen",
        }
    }

    /// Words that tell which kind dom0 is. A PVH dom0 of Xen wants an IOMMU unless told that there is none to use.
    pub(crate) fn kind(self, board: &Board, kind: Kind) -> &'static str {
        match (self, board.arch, kind) {
            (_, _, Kind::Paravirtual) => "dom0=pv",
            (On::Xen, Arch::X86_64, Kind::Hardware) => "dom0=pvh dom0-iommu=none",
            _ => "",
        }
    }

    /// The file that QEMU starts.
    pub(crate) fn image(self, board: &Board) -> Result<std::path::PathBuf> {
        match self {
            On::Xenolith => build::hypervisor(board.arch).map(|built| built.bin),
            On::Xen => Debian::fetch(board.arch)?.xen(),
        }
    }
}

/// Whether Xenolith runs PV guests, and the rows for them are part of tests and benchmarks.
pub(crate) const PARAVIRTUAL_RUNS: bool = true;

/// What kind of dom0 a guest is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// One that the CPU's own means virtualize.
    Hardware,
    /// A paravirtualized kernel of x86-64.
    Paravirtual,
}

impl Kind {
    /// The kind of the guest with this name.
    pub(crate) fn of(guest: &str) -> Kind {
        match guest.ends_with("-pv") {
            true => Kind::Paravirtual,
            false => Kind::Hardware,
        }
    }

    /// A CPU model of QEMU for it, where that of the board will not do: QEMU 7.2 takes SMAP to hold in ring 3, too, and gives
    /// PV guests faults of XRSTOR now and then. Xen needs a CPU without the two, and both are to have the same.
    pub(crate) fn cpu(self) -> Option<String> {
        (self == Kind::Paravirtual).then(|| "max,-smap,-xsave".into())
    }
}

/// The variant in which a guest is dom0 where it is a domain with control otherwise.
pub(crate) const AS_DOM0: &str = "/dom0";

/// How a guest is run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run<'a> {
    /// What tells its log from those of other runs of the guest.
    pub(crate) variant: &'a str,
    /// The board.
    pub(crate) board: &'static Board,
    /// Processors.
    pub(crate) cpus: u32,
    /// Count instructions.
    pub(crate) icount: bool,
    /// What runs the machine.
    pub(crate) runs_in: Emulator,
    /// Another emulator than the installed one.
    pub(crate) emulator: Option<&'a Path>,
    /// Another CPU model than the guest's kind has.
    pub(crate) cpu: Option<&'a str>,
    /// Words for the guest.
    pub(crate) words: &'a str,
    /// Words for the hypervisor, beside those of the board.
    pub(crate) xen_words: &'a str,
    /// Domains beside it.
    pub(crate) beside: &'a [Domain],
    /// The time limit.
    pub(crate) limit: Duration,
}

/// Runs a guest to its end. The log is named after the guest, the board, the hypervisor and what else tells runs apart.
pub(crate) fn run(guest: &Built, on: On, run: &Run) -> Result<Results> {
    let mut machine = machine(&guest.bin, on, run)?;
    let name = log_name(guest, on, run);
    if !run.beside.is_empty() {
        domains::add(&mut machine, run.beside, &name)?;
    }
    let mut emulator = machine.command(Terminal::Pipes, &name)?;
    let mut console = Console::start(&mut emulator, &name, run.limit, Echo::Log)?;
    let ended = match (run.runs_in, on) {
        // Xen halts there or starts the machine again, and the emulator goes on for ever.
        (Emulator::Bochs, On::Xen) => console
            .wait_for(results::END)
            .and_then(|_| console.wait_for("\n"))
            .map(drop),
        _ => console.wait_for_power_off(),
    };
    ended.with_context(|| format!("{} on {}", guest.name, on.name()))?;
    let results = Results::parse(console.text());
    results
        .check_complete()
        .with_context(|| format!("{} on {}\n{}", guest.name, on.name(), console.tail()))?;
    Ok(results)
}

fn log_name(guest: &Built, on: On, run: &Run) -> String {
    let machine = match run.runs_in {
        Emulator::Qemu => run.board.name,
        Emulator::Bochs => "bochs",
    };
    let counted = match run.icount {
        true => format!("-icount{}", run.cpus),
        false => String::new(),
    };
    let beside = match run.beside {
        [] => "",
        _ => "-beside",
    };
    let variant = run.variant.replace(|c: char| !c.is_alphanumeric(), "-");
    format!(
        "{}-{machine}-{}{counted}{beside}{variant}",
        guest.name,
        on.name()
    )
}

/// The machine that runs a guest.
pub(crate) fn machine(guest: &Path, on: On, run: &Run) -> Result<Machine> {
    let name = guest.file_stem().unwrap_or_default().to_string_lossy();
    let kind = Kind::of(&name);
    let words = on.kind(run.board, kind);
    let words = format!(
        "{} dom0_mem=256M {words} {}",
        run.board.words, run.xen_words
    );
    let dom0 = Dom0 {
        kernel: guest.to_path_buf(),
        initrd: None,
        words: run.words.to_string(),
    };
    let files = Files {
        hypervisor: on.image(run.board)?,
        words: words.trim().to_string(),
        dom0: Some(dom0),
    };
    let mut machine = Machine::new(run.board, Boot::Direct(files));
    (machine.cpus, machine.icount, machine.on) = (run.cpus, run.icount, run.runs_in);
    machine.memory = match run.runs_in {
        Emulator::Qemu => 1024,
        // It clears its memory before it starts.
        Emulator::Bochs => 512 + run.beside.iter().map(|domain| domain.memory).sum::<u64>(),
    };
    machine.cpu = match run.runs_in {
        Emulator::Qemu => run.cpu.map(Into::into).or_else(|| kind.cpu()),
        Emulator::Bochs => None,
    };
    if on == On::Xen {
        machine.grub = grub::Protocol::Multiboot;
    }
    machine.emulator = run.emulator.map(Path::to_path_buf);
    machine.has_dom0 = run.variant == AS_DOM0;
    Ok(machine)
}
