//! Domains and no dom0: a machine whose device tree has `xen,domain` nodes only.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::arch::Arch;
use crate::boards::{self, Board};
use crate::console::{Console, Echo};
use crate::domains::{self, Domain};
use crate::emulator::{Boot, Machine, Terminal};
use crate::prepare::MachineArgs;
use crate::verbs::build;
use crate::verbs::test::Case;

const LIMIT: Duration = Duration::from_secs(90);
/// Domains in the machine.
const COUNT: usize = 2;

/// One test per board that can have such domains.
pub(crate) fn cases() -> Vec<Case> {
    let boards = boards::ALL
        .iter()
        .filter(|board| board.arch != Arch::X86_64);
    boards
        .map(|board| {
            let name = format!("domains-alone/{}", board.name);
            Case::machine(board.arch, name, move || check(board))
        })
        .collect()
}

fn check(board: &'static Board) -> Result<()> {
    const GUEST: &str = "guest-neighbour";
    let guests = build::guests(board.arch)?;
    let guest = guests.iter().find(|guest| guest.name == GUEST);
    let guest = guest.with_context(|| format!("package xenolith-guests has no program {GUEST}"))?;
    let args = MachineArgs {
        xen_append: Some("guest_loglvl=all".into()),
        ..MachineArgs::default()
    };
    let mut machine = Machine::new(board, Boot::Direct(args.hypervisor_alone(board)?));
    let name = format!("alone-{}", board.name);
    let domain = |peer| Domain {
        kernel: guest.bin.clone(),
        words: format!("seconds=2 peer={peer}"),
        cpus: 1,
        memory: 64,
        tables: None,
    };
    // Each offers a port and a page to the other.
    domains::add(&mut machine, &[domain(2), domain(1)], &name)?;
    let mut qemu = machine.command(Terminal::Pipes, &name)?;
    let mut console = Console::start(&mut qemu, &name, LIMIT, Echo::Log)?;
    for _ in 0..COUNT {
        console.wait_for("[guest] done ")?;
    }
    let text = console.text();
    for number in 1..=COUNT {
        let peer = COUNT + 1 - number;
        ensure!(
            text.contains(&format!("[guest] value neighbour.domain {number}\n")),
            "domain {number} did not say who it is\n{}",
            console.tail()
        );
        ensure!(
            text.contains(&format!(" reference 8 peer {peer}\n")),
            "nothing was offered to domain {peer}\n{}",
            console.tail()
        );
    }
    // Domains that end do not end a machine: the keyboard does, by Xenolith's debug keys.
    console.keys_to_hypervisor(COUNT)?;
    console.send("R")?;
    console.wait_for_power_off()
}
