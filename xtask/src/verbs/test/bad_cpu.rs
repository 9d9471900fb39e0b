//! Processors that cannot run guests: Xenolith says in one line what is missing, starts its CPUs, and stops by itself.
//!
//! Each test is one row: the processor, and words of which the line must hold each. Intel's are in Bochs. No
//! emulator has firmware that forbids VMX or SVM: what is made of the registers that say so is a test of the host's.

use std::time::Duration;

use anyhow::Result;

use crate::boards::Board;
use crate::console::{Console, Echo};
use crate::emulator::{Boot, Emulator, Machine, Terminal};
use crate::prepare::MachineArgs;
use crate::verbs::setup;
use crate::verbs::test::Case;
use crate::verbs::test::bad_input::wait_for_line;
use crate::{bochs, grub};

/// Bochs takes a minute to read the CD on a busy host.
const LIMIT: Duration = Duration::from_secs(180);
/// Memory in MiB: Bochs starts the sooner the less there is.
const MEMORY: u64 = 256;

/// How the start ends where nothing can be run.
const END: &str = "start-up ends here";

struct Row {
    name: &'static str,
    emulator: Emulator,
    /// As the emulator names it.
    processor: &'static str,
    /// All in one line.
    says: &'static [&'static str],
}

const ROWS: &[Row] = &[
    Row {
        name: "no-virtualization/qemu-q35",
        emulator: Emulator::Qemu,
        processor: "qemu64,-svm",
        says: &["neither svm nor vmx"],
    },
    Row {
        name: "no-nested-paging/qemu-q35",
        emulator: Emulator::Qemu,
        processor: "qemu64,+svm,-npt",
        says: &["no nested paging"],
    },
    Row {
        name: "no-vmx/bochs",
        emulator: Emulator::Bochs,
        processor: "athlon64_venice",
        says: &["neither svm nor vmx"],
    },
    Row {
        name: "no-ept/bochs",
        emulator: Emulator::Bochs,
        processor: "core2_penryn_t9600",
        says: &["ept"],
    },
    Row {
        name: "no-unrestricted-guest/bochs",
        emulator: Emulator::Bochs,
        processor: "corei5_lynnfield_750",
        says: &["unrestricted guest"],
    },
];

/// One test per row.
pub(crate) fn cases(board: &'static Board) -> Vec<Case> {
    let case = |row: &'static Row| {
        let name = format!("bad-input/{}", row.name);
        Case::machine(board.arch, name, move || check(board, row))
    };
    ROWS.iter().map(case).collect()
}

fn check(board: &'static Board, row: &Row) -> Result<()> {
    if row.emulator == Emulator::Bochs {
        setup::ensure_these(bochs::TOOLS)?;
        setup::ensure_these(grub::TOOLS)?;
    }
    let files = MachineArgs::default().hypervisor_alone(board)?;
    let mut machine = Machine::new(board, Boot::Direct(files));
    machine.on = row.emulator;
    machine.cpus = 1;
    machine.memory = MEMORY;
    machine.cpu = Some(row.processor.into());
    let name = format!("bad-{}", row.name.replace('/', "-"));
    let mut emulator = machine.command(Terminal::Pipes, &name)?;
    let mut console = Console::start(&mut emulator, &name, LIMIT, Echo::Log)?;
    wait_for_line(&mut console, row.says)?;
    console.wait_for(END).map(drop)
}
