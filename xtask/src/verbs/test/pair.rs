//! Two of our guests beside each other, dom0 and a domain of the device tree: thousands of events to and fro on one CPU, each
//! of which both sleep for. So the CPU goes from one domain to the other and back all the time. And two PV domains: dom0 maps the other
//! one's frames while it makes page tables of them.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::arch::Arch;
use crate::boards::{self, Board};
use crate::domains::Domain;
use crate::emulator::Emulator;
use crate::guest::{self, On, Run};
use crate::results::Outcome;
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
    let mut cases: Vec<_> = machines
        .map(|(name, emulator, limit)| {
            let name = format!("pair/{name}");
            Case::machine(board.arch, name, move || check(board, emulator, limit))
        })
        .into();
    for (variant, words) in [("pv", ""), ("pv-isolated", "xpti=1 pcid=1")] {
        let name = format!("pair/{}/{variant}", board.name);
        cases.push(Case::machine(board.arch, name, move || {
            frames(board, words)
        }));
    }
    Ok(cases)
}

/// A PV dom0 and another PV domain, each on a CPU of its own.
fn frames(board: &'static Board, xen_words: &str) -> Result<()> {
    let guests = build::guests(board.arch)?;
    let named = |name: &str| {
        let guest = guests.iter().find(|guest| guest.name == name);
        guest.with_context(|| format!("package xenolith-guests has no program {name}"))
    };
    let neighbour = Domain {
        kernel: named("guest-neighbour-pv")?.bin.clone(),
        words: "frames=1".into(),
        cpus: 1,
        memory: 128,
        tables: None,
    };
    let run = Run {
        variant: if xen_words.is_empty() {
            ""
        } else {
            "-isolated"
        },
        board,
        cpus: 2,
        icount: false,
        runs_in: Emulator::Qemu,
        emulator: None,
        words: "beside=1",
        cpu: None,
        xen_words,
        beside: &[neighbour],
        limit: LIMIT,
    };
    let results = guest::run(named("guest-abi-pv")?, On::Xenolith, &run)?;
    let failed: Vec<_> = results
        .cases
        .iter()
        .filter(|(_, outcome)| **outcome != Outcome::Ok)
        .collect();
    ensure!(failed.is_empty(), "{failed:?}");
    ensure!(!results.cases.is_empty(), "dom0 tried nothing");
    Ok(())
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
