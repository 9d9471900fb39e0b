//! Domains beside Debian's Linux: whatever the neighbour does, dom0 answers before, during and after.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::boards::Board;
use crate::console::{Console, Echo};
use crate::domains::{self, Domain};
use crate::emulator::Terminal;
use crate::prepare::{Dom0Kind, MachineArgs};
use crate::results::{Outcome, Results};
use crate::rootfs;
use crate::verbs::build;
use crate::verbs::test::Case;

/// A guest that runs beside dom0.
struct Plan {
    guest: &'static str,
    /// Stands behind the guest's name where one runs twice.
    variant: &'static str,
    words: &'static str,
    /// How dom0 runs, where there is a choice.
    dom0: Option<Dom0Kind>,
    end: End,
    /// How long it may take, in seconds.
    limit: u64,
}

/// How the guest comes to its end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// It says its results, all good.
    Done,
    /// Its CPU gives up, and the hypervisor says this.
    Crash(&'static str),
}

const PLANS: &[Plan] = &[
    Plan {
        guest: "guest-neighbour",
        variant: "",
        words: "seconds=2",
        dom0: None,
        end: End::Done,
        limit: 180,
    },
    Plan {
        guest: "guest-fuzz",
        variant: "",
        words: "calls=1000000",
        dom0: None,
        end: End::Done,
        limit: 600,
    },
];

const X86_PLANS: &[Plan] = &[
    Plan {
        guest: "guest-neighbour",
        variant: "/qemu-q35",
        words: "seconds=2",
        dom0: None,
        end: End::Done,
        limit: 180,
    },
    // Each call is many more instructions of the emulator than on ARM.
    Plan {
        guest: "guest-fuzz",
        variant: "/qemu-q35",
        words: "calls=20000",
        dom0: None,
        end: End::Done,
        limit: 300,
    },
    Plan {
        guest: "guest-fuzz",
        variant: "/qemu-q35/triple-fault",
        words: "calls=100 fault=1",
        dom0: None,
        end: End::Crash("domain 1 crashed: triple fault"),
        limit: 180,
    },
    Plan {
        guest: "guest-fuzz",
        variant: "/qemu-q35/stack-nowhere",
        words: "calls=100 fault=2",
        dom0: None,
        end: End::Crash("domain 1 crashed: delivery of an event to memory that is not there"),
        limit: 180,
    },
    // A paravirtual guest beside a dom0 in hardware, and one beside a paravirtual dom0.
    Plan {
        guest: "guest-fuzz-pv",
        variant: "/qemu-q35",
        words: "calls=10000",
        dom0: Some(Dom0Kind::Pvh),
        end: End::Done,
        limit: 180,
    },
    Plan {
        guest: "guest-fuzz-pv",
        variant: "/qemu-q35/stack-below-its-own",
        words: "calls=100 fault=3",
        dom0: Some(Dom0Kind::Pv),
        end: End::Crash("domain 1 crashed: no way into its kernel for exception 6"),
        limit: 180,
    },
    Plan {
        guest: "guest-fuzz-pv",
        variant: "/qemu-q35/handler-nowhere",
        words: "calls=100 fault=6",
        dom0: Some(Dom0Kind::Pv),
        end: End::Crash("domain 1 crashed: no way into its kernel for exception 14"),
        limit: 180,
    },
    Plan {
        guest: "guest-neighbour-pv",
        variant: "/qemu-q35/pv",
        words: "seconds=2",
        dom0: Some(Dom0Kind::Pv),
        end: End::Done,
        limit: 180,
    },
];

const RISCV_PLANS: &[Plan] = &[
    Plan {
        guest: "guest-neighbour",
        variant: "/qemu-virt-riscv64",
        words: "seconds=2",
        dom0: None,
        end: End::Done,
        limit: 180,
    },
    Plan {
        guest: "guest-fuzz",
        variant: "/qemu-virt-riscv64",
        words: "calls=20000",
        dom0: None,
        end: End::Done,
        limit: 300,
    },
];

/// The same on RISC-V.
pub(crate) fn riscv_cases(board: &'static Board) -> Vec<Case> {
    RISCV_PLANS.iter().map(|plan| case(board, plan)).collect()
}

/// The same on x86-64.
pub(crate) fn x86_cases(board: &'static Board) -> Vec<Case> {
    X86_PLANS.iter().map(|plan| case(board, plan)).collect()
}

/// One test per guest.
pub(crate) fn cases(board: &'static Board) -> Vec<Case> {
    let mut cases: Vec<Case> = PLANS.iter().map(|plan| case(board, plan)).collect();
    // The measure itself: the same on Debian's Xen.
    cases.extend(PLANS.first().map(|plan| {
        let name = format!("beside-linux-on-xen/{}", plan.guest);
        Case::machine(board.arch, name, move || check(board, plan, true))
    }));
    cases
}

fn case(board: &'static Board, plan: &'static Plan) -> Case {
    let name = format!("beside-linux/{}{}", plan.guest, plan.variant);
    Case::machine(board.arch, name, move || check(board, plan, false))
}

fn check(board: &'static Board, plan: &Plan, reference: bool) -> Result<()> {
    let guests = build::guests(board.arch)?;
    let guest = guests.iter().find(|guest| guest.name == plan.guest);
    let guest =
        guest.with_context(|| format!("package xenolith-guests has no program {}", plan.guest))?;
    let on = if reference { "xen" } else { "xenolith" };
    let variant = plan.variant.replace('/', "-");
    let name = format!("beside-linux-{}{variant}-{on}", plan.guest);
    let args = MachineArgs {
        board: Some(board.name.to_string()),
        // What a domain without a console of its own prints is a guest's message, which Xen keeps to itself otherwise.
        xen_append: Some("guest_loglvl=all".into()),
        reference,
        dom0: plan.dom0,
        ..MachineArgs::default()
    };
    let mut machine = args.machine(None)?;
    let domain = Domain {
        kernel: guest.bin.clone(),
        words: plan.words.to_string(),
        cpus: 1,
        memory: 128,
        tables: None,
    };
    domains::add(&mut machine, &[domain], &name)?;
    let mut qemu = machine.command(Terminal::Pipes, &name)?;
    let mut console = Console::start(&mut qemu, &name, Duration::from_secs(plan.limit), Echo::Log)?;
    console.wait_for(rootfs::PROMPT)?;
    // The guest may have ended before dom0's prompt came, so the whole text counts, from the start.
    while !has_ended(console.text(), plan.end) {
        alive(&mut console)?;
    }
    alive(&mut console)?;
    let results = Results::parse(console.text());
    let failed: Vec<_> = results
        .cases
        .iter()
        .filter(|(_, outcome)| **outcome != Outcome::Ok)
        .collect();
    ensure!(
        failed.is_empty(),
        "{}: {failed:?}\n{}",
        plan.guest,
        console.tail()
    );
    console.send("exit\n")?;
    console.wait_for("Power down")?;
    console.wait_for_power_off()
}

fn has_ended(text: &str, end: End) -> bool {
    match end {
        End::Done => Results::parse(text).done.is_some(),
        // With its registers before it.
        End::Crash(line) => text
            .split_once("(XEN) d1v0: rip ")
            .is_some_and(|(_, behind)| behind.contains(line)),
    }
}

/// dom0 runs a process and says what only it can know.
fn alive(console: &mut Console) -> Result<()> {
    console.send("sleep 1; echo $((40 + 2))-alive\n")?;
    console.wait_for("42-alive")?;
    console.wait_for(rootfs::PROMPT)?;
    Ok(())
}
