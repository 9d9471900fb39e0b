//! Non-maskable interrupts of the machine, raised by QEMU's monitor: dom0 gets them, with the reason, or the machine stops for one.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::arch::Arch;
use crate::boards::{self, Board};
use crate::console::{Console, Echo};
use crate::emulator::{Emulator, Machine, Terminal};
use crate::guest::{self, On, Run};
use crate::icount::Qmp;
use crate::verbs::build;
use crate::verbs::test::Case;

const GUEST: &str = "guest-abi-pv";
const LIMIT: Duration = Duration::from_secs(60);

/// What the guest says when it waits for one.
const WAITS: [&str; 3] = ["spins", "calls", "sleeps"];

/// The tests.
pub(crate) fn cases() -> Result<Vec<Case>> {
    let board = boards::find(None, Some(Arch::X86_64))?;
    let case = |name: &str, on, check: fn(&'static Board, On) -> Result<()>| {
        Case::machine(board.arch, name, move || check(board, on))
    };
    Ok(vec![
        case("nmi/dom0", On::Xenolith, goes_to_dom0),
        case("nmi/dom0-on-xen", On::Xen, goes_to_dom0),
        case("nmi/fatal", On::Xenolith, is_fatal),
    ])
}

fn goes_to_dom0(board: &'static Board, on: On) -> Result<()> {
    let (mut console, mut monitor) = start(board, on, 2, "nmi=dom0")?;
    for how in WAITS {
        console.wait_for(&format!("[guest] waits for an NMI and {how}"))?;
        monitor.ask("inject-nmi")?;
    }
    console.wait_for("[guest] ok button.nmis_of_the_machine")?;
    console.wait_for_power_off()
}

fn is_fatal(board: &'static Board, on: On) -> Result<()> {
    let (mut console, mut monitor) = start(board, on, 1, "nmi=fatal")?;
    console.wait_for(WAITS[0])?;
    monitor.ask("inject-nmi")?;
    console.wait_for("the machine stops for it")?;
    console.wait_for_power_off()
}

fn start(board: &'static Board, on: On, cpus: u32, words: &str) -> Result<(Console, Qmp)> {
    let guests = build::guests(board.arch)?;
    let guest = guests.iter().find(|guest| guest.name == GUEST);
    let guest = guest.with_context(|| format!("there is no program {GUEST}"))?;
    let run = Run {
        variant: "",
        board,
        cpus,
        icount: false,
        runs_in: Emulator::Qemu,
        emulator: None,
        cpu: None,
        words: "nmi=1 only=button end=reboot",
        xen_words: words,
        beside: &[],
        limit: LIMIT,
    };
    let mut machine: Machine = guest::machine(&guest.bin, on, &run)?;
    let name = format!("{}-{}", words.replace('=', "-"), on.name());
    let socket = std::env::temp_dir().join(format!("xtask-{}-{name}.qmp", std::process::id()));
    machine.extra = vec![
        "-qmp".into(),
        format!("unix:{},server=on,wait=off", socket.display()),
    ];
    let mut emulator = machine.command(Terminal::Pipes, &name)?;
    let console = Console::start(&mut emulator, &name, LIMIT, Echo::Log)?;
    let mut monitor = Qmp::connect(&socket, LIMIT)?;
    monitor.ask("qmp_capabilities")?;
    Ok((console, monitor))
}
