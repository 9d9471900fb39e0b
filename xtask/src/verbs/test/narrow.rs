//! The 32-bit guest as dom0: without paging and with PAE. Xen must answer alike; in QEMU 7.2 it is asked without paging only,
//! as that emulator marks PAE's page-directory pointers as accessed, a reserved bit, and Xen then reads none of the guest's arguments.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::arch::Arch;
use crate::boards::{self, Board};
use crate::emulator::Emulator;
use crate::guest::{self, On, Run};
use crate::results::{self, Outcome};
use crate::verbs::build;
use crate::verbs::test::Case;

const GUEST: &str = "guest-narrow";
const LIMIT: Duration = Duration::from_secs(120);
const BOCHS_LIMIT: Duration = Duration::from_secs(240);
/// How often Xen is asked at most: in QEMU it loses an interrupt now and then.
const REFERENCE_RUNS: usize = 3;

/// One test with SVM and one with VMX.
pub(crate) fn cases() -> Result<Vec<Case>> {
    let q35 = boards::find(Some("qemu-q35"), None)?;
    let pc = boards::find(None, Some(Arch::X86_64))?;
    let machines = [(q35, Emulator::Qemu), (pc, Emulator::Bochs)];
    Ok(machines
        .map(|(board, emulator)| {
            let machine = match emulator {
                Emulator::Qemu => board.name,
                Emulator::Bochs => "bochs",
            };
            let name = format!("guest/{GUEST}/{machine}");
            Case::machine(board.arch, name, move || check(board, emulator))
        })
        .into())
}

fn check(board: &'static Board, emulator: Emulator) -> Result<()> {
    let guests = build::guests(board.arch)?;
    let guest = guests.iter().find(|guest| guest.name == GUEST);
    let guest = guest.context("it was not built")?;
    let (words, limit) = match emulator {
        Emulator::Qemu => ("end=reboot", LIMIT),
        Emulator::Bochs => ("", BOCHS_LIMIT),
    };
    let run = Run {
        variant: "",
        board,
        cpus: 1,
        icount: false,
        runs_in: emulator,
        emulator: None,
        words,
        cpu: None,
        xen_words: "",
        beside: &[],
        limit,
    };
    let ours = guest::run(guest, On::Xenolith, &run)?;
    let failed = ours.cases.iter().filter(|(_, out)| **out != Outcome::Ok);
    let failed: Vec<String> = failed.map(|case| format!("{case:?}")).collect();
    ensure!(failed.is_empty(), "{}", failed.join("\n"));
    let has = |group: &str| ours.cases.keys().any(|name| name.starts_with(group));
    ensure!(
        has("flat.") && has("pae.") && has("moved."),
        "cases missing"
    );
    let (ours, run) = match emulator {
        Emulator::Bochs => (ours, run),
        Emulator::Qemu => {
            let words = "end=reboot paging=off";
            let unpaged = Run {
                variant: "-unpaged",
                words,
                ..run
            };
            (guest::run(guest, On::Xenolith, &unpaged)?, unpaged)
        }
    };
    let mut found = Vec::new();
    for _ in 0..REFERENCE_RUNS {
        let theirs = guest::run(guest, On::Xen, &run)?;
        found = results::differences(&ours, &theirs, &|_| false);
        if found.is_empty() {
            break;
        }
    }
    ensure!(found.is_empty(), "{}", found.join("\n"));
    Ok(())
}
