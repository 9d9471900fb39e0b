//! `cargo xtask smoke`: does Debian's kernel come up as dom0, see its hypervisor, and go down again?
//!
//! The commands are typed at dom0's prompt and what they say is printed. On a port whose kernels know of no Xen, dom0
//! is asked for what it sees of its machine.

use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Args;

use crate::arch::Arch;
use crate::boards::Stage;
use crate::console::{Console, Echo};
use crate::emulator::{Emulator, Machine, Terminal};
use crate::prepare::{Dom0Kind, MachineArgs};
use crate::rootfs;

/// The time limit of one smoke run, unless `--timeout` says otherwise.
const LIMIT: u64 = 240;
/// The same in Bochs.
const BOCHS_LIMIT: u64 = 900;

/// What to smoke-test.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct SmokeArgs {
    #[command(flatten)]
    pub(crate) machine: MachineArgs,
}

/// Runs the smoke test; an error says what was wrong.
pub(crate) fn run(args: &SmokeArgs, arch: Option<Arch>) -> Result<()> {
    let board = args.machine.board(arch)?;
    let machine = args.machine.machine(arch)?;
    let limit = args.machine.limit(match machine.on {
        Emulator::Qemu => LIMIT,
        Emulator::Bochs => BOCHS_LIMIT,
    });
    let name = log_name(args, board.name);
    check(&machine, args.machine.dom0, &name, limit, Echo::Stdout)
}

/// The name of the log of a smoke run with these options.
pub(crate) fn log_name(args: &SmokeArgs, board: &str) -> String {
    let on = if args.machine.reference { "-xen" } else { "" };
    let by = if args.machine.uboot { "-uboot" } else { "" };
    let emulator = match args.machine.emulator {
        Emulator::Qemu => "",
        Emulator::Bochs => "-bochs",
    };
    let first = if args.machine.domain { "-domain" } else { "" };
    let kind = match args.machine.dom0 {
        Some(Dom0Kind::Pv) => "-pv",
        Some(Dom0Kind::Pvh) => "-pvh",
        None => "",
    };
    format!("smoke-{board}{first}{kind}{on}{by}{emulator}")
}

/// Boots the machine and asks of it what its port has reached; where `kind` says how dom0 is to run, also that it does.
pub(crate) fn check(
    machine: &Machine,
    kind: Option<Dom0Kind>,
    name: &str,
    limit: Duration,
    echo: Echo,
) -> Result<()> {
    let mut qemu = machine.command(Terminal::Pipes, name)?;
    let mut console = Console::start(&mut qemu, name, limit, Echo::Log)?;
    match machine.board.stage {
        Stage::Dom0 => dom0(&mut console, machine, kind, echo),
        Stage::Domain => domain(&mut console, machine.cpus, echo),
    }
}

/// Types the commands into dom0 and looks at what they say.
fn dom0(
    console: &mut Console,
    machine: &Machine,
    wanted: Option<Dom0Kind>,
    echo: Echo,
) -> Result<()> {
    let (arch, cpus) = (machine.board.arch, machine.cpus);
    console.wait_for(rootfs::PROMPT)?;
    if echo == Echo::Stdout {
        println!(
            "dom0 reached user space after {:.1} s",
            console.elapsed().as_secs_f32()
        );
    }
    let mut ask = |command: &str| answer(console, command, echo);
    let kernel = ask("uname -a")?;
    let kind = ask("cat /sys/hypervisor/type")?;
    if let Some(wanted) = wanted {
        let wanted = match wanted {
            Dom0Kind::Pv => "PV",
            Dom0Kind::Pvh => "PVH",
        };
        let runs_as = ask("cat /sys/hypervisor/guest_type")?;
        ensure!(runs_as == wanted, "dom0 is {runs_as}, not {wanted}");
    }
    let version = ask("cat /sys/hypervisor/version/*")?;
    let processors = ask("nproc")?;
    let interrupts = ask("cat /proc/interrupts")?;

    ensure!(kernel.starts_with("Linux "), "uname -a said \"{kernel}\"");
    ensure!(
        kind == "xen",
        "/sys/hypervisor/type is \"{kind}\", not \"xen\""
    );
    ensure!(
        version.lines().count() >= 2,
        "/sys/hypervisor/version has no major and minor number: \"{version}\""
    );
    ensure!(
        processors == cpus.to_string(),
        "the machine has {cpus} CPUs and dom0 sees {processors}"
    );
    check_interrupts(&interrupts, sources(arch, &interrupts), cpus)?;

    console.send("exit\n")?;
    console.wait_for("Power down")?;
    console.wait_for_power_off()?;
    if echo == Echo::Stdout {
        println!("powered off after {:.1} s", console.elapsed().as_secs_f32());
    }
    Ok(())
}

/// Types one command and returns what it said.
fn answer(console: &mut Console, command: &str, echo: Echo) -> Result<String> {
    console.send(&format!("{command}\n"))?;
    // The terminal echoes what is typed; the answer starts on the next line.
    console.wait_for(&format!("{command}\n"))?;
    let said = console.wait_for(rootfs::PROMPT)?;
    let said = said.trim_end();
    if echo == Echo::Stdout {
        println!("$ {command}\n{said}");
    }
    Ok(said.to_string())
}

/// What brings the timer's interrupts and those of event channels. A PV kernel counts neither's vector: it has a port for each.
fn sources(arch: Arch, table: &str) -> &'static [&'static str] {
    const CALLBACK: &str = "Hypervisor callback interrupts";
    match arch {
        Arch::X86_64 if table.contains(CALLBACK) => &["timer", CALLBACK],
        Arch::X86_64 => &["timer0", "hvc_console"],
        _ => &["arch_timer", "events"],
    }
}

/// Every processor has a column, and the timer's interrupts and the event channels' have come.
fn check_interrupts(table: &str, sources: &[&str], cpus: u32) -> Result<()> {
    let columns = table
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .filter(|word| word.starts_with("CPU"))
        .count();
    ensure!(
        columns == cpus as usize,
        "/proc/interrupts has {columns} CPUs, not {cpus}"
    );
    sources
        .iter()
        .try_for_each(|source| check_source(table, source))
}

/// Interrupts of a source have come.
fn check_source(table: &str, source: &str) -> Result<()> {
    let total: u64 = table
        .lines()
        .filter(|line| line.contains(source))
        .flat_map(|line| {
            line.split_whitespace()
                .skip(1)
                .map_while(|word| word.parse::<u64>().ok())
        })
        .sum();
    ensure!(
        total > 0,
        "/proc/interrupts shows no interrupt of \"{source}\""
    );
    Ok(())
}

/// Types the commands into a dom0 or first domain that knows of no Xen.
fn domain(console: &mut Console, cpus: u32, echo: Echo) -> Result<()> {
    // The SBI's number of the Xen Project.
    console.wait_for("SBI implementation ID=0x7")?;
    console.wait_for(rootfs::PROMPT)?;
    if echo == Echo::Stdout {
        println!(
            "Linux reached user space after {:.1} s",
            console.elapsed().as_secs_f32()
        );
    }
    let kernel = answer(console, "uname -a", echo)?;
    let processors = answer(console, "nproc", echo)?;
    let interrupts = answer(console, "cat /proc/interrupts", echo)?;
    ensure!(kernel.starts_with("Linux "), "uname -a said \"{kernel}\"");
    ensure!(
        processors == cpus.to_string(),
        "the machine has {cpus} CPUs and the domain sees {processors}"
    );
    check_interrupts(&interrupts, &["riscv-timer", "ttyS0"], cpus)?;
    // A device of the machine.
    answer(console, "hwclock -r -u", echo)?;
    console.send("exit\n")?;
    console.wait_for("Power down")?;
    console.wait_for_power_off()?;
    if echo == Echo::Stdout {
        println!("powered off after {:.1} s", console.elapsed().as_secs_f32());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "           CPU0       CPU1\n 11:        5       6     GICv3  27 Level     arch_timer\n\
                         14:       31       0     GICv3  31 Level     events\n";

    #[test]
    fn a_table_with_all_cpus_and_both_sources_is_good() {
        check_interrupts(TABLE, sources(Arch::Aarch64, ""), 2).unwrap();
    }

    #[test]
    fn a_missing_cpu_or_a_silent_timer_is_named() {
        assert!(
            check_interrupts(TABLE, sources(Arch::Aarch64, ""), 4)
                .unwrap_err()
                .to_string()
                .contains("not 4")
        );
        let silent = TABLE.replace("5       6", "0       0");
        assert!(
            check_interrupts(&silent, sources(Arch::Aarch64, ""), 2)
                .unwrap_err()
                .to_string()
                .contains("arch_timer")
        );
    }
}
