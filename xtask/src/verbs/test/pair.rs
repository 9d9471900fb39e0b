//! Two of our guests beside each other, dom0 and a domain of the device tree: thousands of events to and fro on one CPU, each
//! of which both sleep for. So the CPU goes from one domain to the other and back all the time.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::arch::Arch;
use crate::boards::{self, Board};
use crate::domains::Domain;
use crate::emulator::Emulator;
use crate::guest::{self, On, Run};
use crate::verbs::build;
use crate::verbs::test::Case;

const LIMIT: Duration = Duration::from_secs(240);
const BOCHS_LIMIT: Duration = Duration::from_secs(480);

/// One test with SVM and one with VMX.
pub(crate) fn cases() -> Result<Vec<Case>> {
    let board = boards::find(None, Some(Arch::X86_64))?;
    let machines = [
        (board.name, Emulator::Qemu, LIMIT),
        ("bochs", Emulator::Bochs, BOCHS_LIMIT),
    ];
    Ok(machines
        .map(|(name, emulator, limit)| {
            let name = format!("pair/{name}");
            Case::machine(board.arch, name, move || check(board, emulator, limit))
        })
        .into())
}

fn check(board: &'static Board, emulator: Emulator, limit: Duration) -> Result<()> {
    let guests = build::guests(board.arch)?;
    let named = |name: &str| {
        let guest = guests.iter().find(|guest| guest.name == name);
        guest.with_context(|| format!("package xenolith-guests has no program {name}"))
    };
    let neighbour = Domain {
        kernel: named("guest-neighbour")?.bin.clone(),
        words: String::new(),
        cpus: 1,
        memory: 128,
        tables: None,
    };
    let run = Run {
        variant: "",
        board,
        cpus: 1,
        icount: false,
        runs_in: emulator,
        emulator: None,
        words: "pair=1",
        cpu: None,
        xen_words: "",
        beside: &[neighbour],
        limit,
    };
    let results = guest::run(named("guest-bench")?, On::Xenolith, &run)?;
    let ended = results.value("event_ping_pong");
    ended
        .context("the domain beside dom0 did not answer")
        .map(drop)
}
