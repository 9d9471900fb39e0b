//! A machine in Bochs, which has Intel's VMX where QEMU has not: a CD that GRUB starts from, and the command line.
//!
//! Bochs wants a terminal for its serial line, so `script` gives it one and passes on what is said and typed.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use crate::arch::Arch;
use crate::boards::Board;
use crate::emulator::{Boot, Files, Machine, Terminal};
use crate::fetch::Debian;
use crate::prepare::MachineArgs;
use crate::verbs::setup;
use crate::{bzimage, grub, paths};

/// Its CPU model: the newest of Intel's servers that it has.
const MODEL: &str = "corei7_skylake_x";
/// More CPUs than this get numbers that Xen's own rules do not allow.
pub(crate) const MOST_CPUS: u32 = 2;
/// Memory in MiB; more takes Bochs longer to start than the rest does.
pub(crate) const MEMORY: u64 = 768;
/// Words that spare dom0 minutes of testing its ciphers.
const DOM0_WORDS: &str = "cryptomgr.notests";
/// What it writes when the machine has switched itself off.
const POWERED_OFF: &str = "soft power off";
/// What a run needs beside the compilers.
pub(crate) const TOOLS: &[&str] = &["bochs", BIOS, VGA_BIOS, "script", "xz"];
const BIOS: &str = "/usr/share/bochs/BIOS-bochs-latest";
const VGA_BIOS: &str = "/usr/share/vgabios/vgabios.bin";

/// The options of a run in Bochs, where the user left them open.
pub(crate) fn options(given: &MachineArgs, board: &Board) -> Result<MachineArgs> {
    if board.arch != Arch::X86_64 {
        bail!(
            "Bochs is an x86_64 machine; {} is not: leave --emulator out",
            board.name
        );
    }
    if given.grub.is_some() || given.uboot {
        bail!("Bochs starts from a CD that is made for each run: leave --grub and --uboot out");
    }
    ensure_tools()?;
    let mut options = given.clone();
    options.smp.get_or_insert(MOST_CPUS);
    options.memory.get_or_insert(MEMORY);
    if options.kernel.is_none() && !options.reference {
        // Xenolith unpacks it in a few seconds of QEMU's time, and in minutes of Bochs'.
        let output = paths::work().join("bochs-kernel");
        let kernel = bzimage::unpacked(&Debian::fetch(board.arch)?.kernel()?, &output)?;
        options.kernel = Some(kernel);
    }
    let words = options.append.get_or_insert_default();
    *words = format!("{DOM0_WORDS} {words}").trim_end().to_string();
    Ok(options)
}

/// An error names what a run needs and is not there.
pub(crate) fn ensure_tools() -> Result<()> {
    setup::ensure_these(TOOLS)?;
    setup::ensure_these(grub::TOOLS)
}

/// The command that runs the machine. It ends well if the machine switched itself off.
pub(crate) fn command(machine: &Machine, terminal: Terminal<'_>, name: &str) -> Result<Command> {
    if machine.cpus == 0 || machine.cpus > MOST_CPUS {
        bail!("Bochs has 1 to {MOST_CPUS} CPUs here, not {}", machine.cpus);
    }
    if machine.gdb.is_some() {
        bail!("gdb needs QEMU: leave --emulator out");
    }
    let Boot::Direct(files) = &machine.boot else {
        bail!("Bochs starts from a CD that is made for each run");
    };
    let folder = paths::work().join(format!("bochs-{name}"));
    let run = Run::make(machine, files, &folder)?;
    let transcript = match terminal {
        Terminal::Users { log } => log,
        Terminal::Pipes => Path::new("/dev/null"),
    };
    let mut command = Command::new("script");
    command
        .args(["-q", "-f", "-e", "-c", &run.shell_line()])
        .arg(transcript);
    Ok(command)
}

/// The files of one run.
struct Run {
    settings: PathBuf,
    /// What is typed to its debugger, which Debian's Bochs has: to go on.
    go: PathBuf,
    /// Everything that it says itself.
    output: PathBuf,
}

impl Run {
    fn make(machine: &Machine, files: &Files, folder: &Path) -> Result<Run> {
        let place = |file: &str| folder.join(file);
        let disc = place("boot.iso");
        let content = grub::Content {
            files,
            more: &machine.more_modules,
            protocol: machine.grub,
            seconds: 0,
        };
        grub::disc(&content, folder, &disc)?;
        let run = Run {
            settings: place("bochsrc"),
            go: place("go"),
            output: place("output"),
        };
        let settings = settings(machine, &disc, &place("bochs.log"));
        paths::write(&run.settings, settings.as_bytes())?;
        paths::write(&run.go, b"c\n")?;
        Ok(run)
    }

    /// Bochs calls every end a failure: how it came to its end stands in what it said.
    fn shell_line(&self) -> String {
        let (settings, go) = (self.settings.display(), self.go.display());
        let output = self.output.display();
        format!(
            "bochs -q -f '{settings}' -rc '{go}' >'{output}' 2>&1 </dev/null; grep -q '{POWERED_OFF}' '{output}'"
        )
    }
}

fn settings(machine: &Machine, disc: &Path, log: &Path) -> String {
    let model = machine.cpu.as_deref().unwrap_or(MODEL);
    let (cpus, memory) = (machine.cpus, machine.memory);
    [
        format!("cpu: model={model}, count={cpus}, ips=50000000, reset_on_triple_fault=0, ignore_bad_msrs=1"),
        format!("memory: guest={memory}, host={memory}"),
        format!("romimage: file={BIOS}, options=fastboot"),
        format!("vgaromimage: file={VGA_BIOS}"),
        // A display that nobody looks at and that waits for nobody.
        "display_library: rfb, options=\"timeout=0\"".into(),
        "clock: sync=none".into(),
        "sound: driver=dummy".into(),
        format!("ata0-master: type=cdrom, path=\"{}\", status=inserted", disc.display()),
        "boot: cdrom".into(),
        "com1: enabled=1, mode=term, dev=/dev/tty".into(),
        format!("log: \"{}\"", log.display()),
        "panic: action=fatal".into(),
        String::new(),
    ]
    .join("\n")
}
