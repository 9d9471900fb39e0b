//! Errors that the hardware reports, put into the banks by QEMU's monitor before the machine starts: each is told in a line, and
//! the machine goes on.

use std::time::Duration;

use anyhow::Result;

use crate::arch::Arch;
use crate::boards::{self, Board};
use crate::console::{Console, Echo};
use crate::emulator::{Boot, Machine, Terminal};
use crate::icount::Qmp;
use crate::prepare::MachineArgs;
use crate::verbs::test::Case;

const LIMIT: Duration = Duration::from_secs(60);

/// CPU, bank, status, global status, address, miscellaneous, as QEMU's monitor takes them: a corrected error of the cache.
const ERROR: &str = "mce 0 4 0x9400000000000135 0x0 0x1234000 0x0";
const LINE: &str = "CPU 0: machine check before the start, bank 4, status 0x9400000000000135: corrected, cache hierarchy, \
                    address 0x1234000";

/// The one test.
pub(crate) fn cases() -> Result<Vec<Case>> {
    let board = boards::find(None, Some(Arch::X86_64))?;
    let name = "machine-check/corrected-before-the-start";
    Ok(vec![Case::machine(board.arch, name, move || check(board))])
}

fn check(board: &'static Board) -> Result<()> {
    let name = "machine-check";
    let files = MachineArgs::default().hypervisor_alone(board)?;
    let mut machine = Machine::new(board, Boot::Direct(files));
    let socket = std::env::temp_dir().join(format!("xtask-{}-{name}.qmp", std::process::id()));
    machine.extra = vec![
        "-S".into(),
        "-qmp".into(),
        format!("unix:{},server=on,wait=off", socket.display()),
    ];
    let mut qemu = machine.command(Terminal::Pipes, name)?;
    let mut console = Console::start(&mut qemu, name, LIMIT, Echo::Log)?;
    let mut monitor = Qmp::connect(&socket, LIMIT)?;
    monitor.ask("qmp_capabilities")?;
    monitor.person(ERROR)?;
    monitor.ask("cont")?;
    console.wait_for(LINE)?;
    console.wait_for("no dom0: ")?;
    console.wait_for_power_off()
}
