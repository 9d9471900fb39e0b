//! `cargo xtask run`: from nothing to a dom0 shell on the console.
//!
//! At a terminal the user has the console. Without one (`--headless`, or standard input is a pipe or a file) the lines
//! of standard input are typed at dom0's prompt, one at each prompt, and at their end the shell is left, which powers
//! the machine off.

use std::io::{BufRead, IsTerminal};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;

use crate::arch::Arch;
use crate::console::{self, Console, Echo};
use crate::emulator::{Emulator, Machine, Terminal};
use crate::prepare::{self, MachineArgs};
use crate::{paths, process, rootfs};

/// The time limit of a machine without a person, unless `--timeout` says otherwise.
const LIMIT: u64 = 300;
/// The same in Bochs.
const BOCHS_LIMIT: u64 = 900;
const GDB_PORT: u16 = 1234;

/// How to run.
#[derive(Args, Debug)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    machine: MachineArgs,
    /// Start stopped, wait for gdb, and print the line that starts gdb
    #[arg(long)]
    gdb: bool,
    /// No terminal: lines of standard input are typed at dom0's prompt, then the shell is left; the machine is stopped
    /// after --timeout seconds [default: 300, in Bochs 900]
    #[arg(long)]
    headless: bool,
}

/// Runs the machine until it ends; an error if it does not end by itself and cleanly.
pub(crate) fn run(args: &RunArgs, arch: Option<Arch>) -> Result<()> {
    let mut machine = args.machine.machine(arch)?;
    if args.gdb {
        machine.gdb = Some(GDB_PORT);
        eprintln!(
            "QEMU waits for gdb; in another terminal:\n    {}",
            gdb_line(&machine)
        );
    }
    if args.headless || !std::io::stdin().is_terminal() {
        return unattended(args, &machine);
    }
    let log = console::log_path("run");
    paths::make_dir(&paths::logs())?;
    console::forget_log(&log);
    let mut command = machine.command(Terminal::Users { log: &log }, "run")?;
    announce(&machine);
    let stops = match machine.on {
        Emulator::Qemu => "Ctrl-] x stops the machine at once; ",
        Emulator::Bochs => "",
    };
    eprintln!("{stops}the console is logged in {}", paths::shown(&log));
    let limit = args.machine.timeout.map(Duration::from_secs);
    let status = crate::terminal::run(&mut command, limit)?;
    if !status.success() {
        bail!(
            "the emulator ended with {status}; its command was\n    {}",
            process::shown(&command)
        );
    }
    Ok(())
}

/// Runs the machine with nobody at the console.
fn unattended(args: &RunArgs, machine: &Machine) -> Result<()> {
    let mut command = machine.command(Terminal::Pipes, "run")?;
    announce(machine);
    let limit = args.machine.limit(match machine.on {
        Emulator::Qemu => LIMIT,
        Emulator::Bochs => BOCHS_LIMIT,
    });
    let mut console = Console::start(&mut command, "run", limit, Echo::Stdout)?;
    if types_at_the_prompt(args) {
        type_lines(&mut console)?;
    }
    console.wait_for_power_off()
}

fn announce(machine: &Machine) {
    eprintln!(
        "starting {} with {} CPUs and {} MiB",
        match machine.on {
            Emulator::Qemu => machine.board.name,
            Emulator::Bochs => "Bochs",
        },
        machine.cpus,
        machine.memory
    );
}

fn types_at_the_prompt(args: &RunArgs) -> bool {
    !args.gdb && prepare::has_our_root(&args.machine)
}

/// Types the lines of standard input, each when the shell waits for one, and then leaves the shell.
fn type_lines(console: &mut Console) -> Result<()> {
    let stdin = std::io::stdin();
    let lines: Box<dyn Iterator<Item = String>> = if stdin.is_terminal() {
        Box::new(std::iter::empty())
    } else {
        Box::new(stdin.lock().lines().map_while(Result::ok))
    };
    for line in lines {
        console.wait_for(rootfs::PROMPT_END)?;
        console.send(&format!("{line}\n"))?;
    }
    console.wait_for(rootfs::PROMPT_END)?;
    console.send("exit\n")
}

fn gdb_line(machine: &Machine) -> String {
    let symbols = machine.board.arch.images().join("xenolith.elf");
    let mut gdb = Command::new("gdb-multiarch");
    gdb.arg("-ex")
        .arg(format!("set architecture {}", machine.board.arch.gdb()));
    gdb.arg("-ex")
        .arg(format!("target remote :{GDB_PORT}"))
        .arg(paths::shown(&symbols));
    process::shown(&gdb)
}
