//! Domains and no dom0: a machine whose device tree has `xen,domain` nodes only.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::arch::Arch;
use crate::boards::{self, Board, Stage};
use crate::console::{Console, Echo};
use crate::domains::{self, Domain};
use crate::emulator::{Boot, Machine, Terminal};
use crate::prepare::MachineArgs;
use crate::verbs::build;
use crate::verbs::test::Case;

const LIMIT: Duration = Duration::from_secs(180);
/// Domains in most of the machines.
const COUNT: usize = 2;

/// One test per board that can have such domains.
pub(crate) fn cases() -> Vec<Case> {
    let boards = boards::ALL
        .iter()
        .filter(|board| board.arch != Arch::X86_64);
    let mut cases: Vec<Case> = boards
        .map(|board| {
            let name = format!("domains-alone/{}", board.name);
            Case::machine(board.arch, name, move || check(board, "alone", ""))
        })
        .collect();
    // Where no Linux stands beside such guests, one of ours does.
    let without_xen = boards::ALL
        .iter()
        .filter(|board| matches!(board.stage, Stage::Domain));
    cases.extend(without_xen.flat_map(|board| {
        let case = |what, check: fn(&'static Board) -> Result<()>| {
            let name = format!("domains-alone/{}/{what}", board.name);
            Case::machine(board.arch, name, move || check(board))
        };
        [
            case("lawless", lawless),
            case("crashes", crashes),
            case("without-vmids", without_vmids),
        ]
    }));
    cases
}

/// A machine with domains, each a guest with its words.
fn start(
    board: &'static Board,
    name: &str,
    xen_words: &str,
    guests: impl IntoIterator<Item = (&'static str, String)>,
) -> Result<Console> {
    let built = build::guests(board.arch)?;
    let args = MachineArgs {
        xen_append: Some(format!("guest_loglvl=all {xen_words}")),
        ..MachineArgs::default()
    };
    let mut machine = Machine::new(board, Boot::Direct(args.hypervisor_alone(board)?));
    let mut domains = Vec::new();
    for (wanted, words) in guests {
        let guest = built.iter().find(|guest| guest.name == wanted);
        let guest =
            guest.with_context(|| format!("package xenolith-guests has no program {wanted}"))?;
        domains.push(Domain {
            kernel: guest.bin.clone(),
            words: words.clone(),
            cpus: if words.contains(OTHER_CPU) { 2 } else { 1 },
            memory: 64,
            tables: None,
        });
    }
    domains::add(&mut machine, &domains, name)?;
    let mut qemu = machine.command(Terminal::Pipes, name)?;
    Console::start(&mut qemu, name, LIMIT, Echo::Log)
}

/// One domain makes random calls of the hypervisor and the firmware, runs random instructions in both of its modes, and points
/// its tables and traps anywhere; the other one does not notice.
fn lawless(board: &'static Board) -> Result<()> {
    let guests = [
        ("guest-fuzz", "machine=1 code=2000 calls=20000".to_string()),
        ("guest-neighbour", "seconds=10".to_string()),
    ];
    let mut console = start(board, &format!("lawless-{}", board.name), "", guests)?;
    for _ in 0..COUNT {
        console.wait_for("[guest] done ")?;
    }
    let text = console.text();
    for (number, guest) in [(1, "fuzz"), (2, "neighbour")] {
        ensure!(
            text.contains(&format!("(d{number}) [guest] begin {guest} ")),
            "domain {number} is no {guest}\n{}",
            console.tail()
        );
    }
    ensure!(!text.contains("FAIL"), "a case failed\n{}", console.tail());
    console.keys_to_hypervisor(COUNT)?;
    console.send("R")?;
    console.wait_for_power_off()
}

/// The end of this kind needs a second CPU.
const OTHER_CPU: &str = "other-cpu";
/// Ways to end, and what the hypervisor says of each.
const ENDS: [(&str, &str); 7] = [
    (
        "handler-nowhere",
        "exception 1 itself (instruction access fault, 0x1f000000)",
    ),
    (
        "handler-in-a-device",
        "exception 1 itself (instruction access fault, 0xc000000)",
    ),
    (
        "handler-illegal",
        "exception 2 itself (illegal instruction, 0x30200073)",
    ),
    (
        "handler-of-the-hypervisor",
        "exception 2 itself (illegal instruction, 0x62000073)",
    ),
    (
        "handler-stores-nowhere",
        "exception 7 itself (store access fault, 0x1f000000)",
    ),
    // Of what was tried where a walk ends nowhere QEMU 7.2 may say that it was a load.
    ("tables-nowhere", " access fault, 0x"),
    (
        OTHER_CPU,
        "exception 1 itself (instruction access fault, 0x1f000000)",
    ),
];

/// Domains break each rule of their privilege and live, the first of them, and then come to an end that nothing of theirs can
/// follow: each ends alone, with its registers. One spins in faults that its CPU delivers to it, and one does not notice.
fn crashes(board: &'static Board) -> Result<()> {
    let guests = ENDS.iter().enumerate().map(|(index, (kind, _))| {
        // One goes through all cases first.
        let cases = if index == 0 { "" } else { " only=last" };
        ("guest-traps", format!("fault={kind}{cases}"))
    });
    let endless = ("guest-traps", "fault=endless only=last".to_string());
    let neighbour = ("guest-neighbour", "seconds=10".to_string());
    let mut console = start(
        board,
        &format!("crashes-{}", board.name),
        "",
        guests.chain([endless, neighbour]),
    )?;
    let (endless, neighbour) = (ENDS.len() + 1, ENDS.len() + 2);
    for _ in ENDS {
        console.wait_for(" crashed: ")?;
        console.wait_for("\n")?;
    }
    // On a host that has better things to do it may have been faster.
    let done = format!("(d{neighbour}) [guest] done ");
    if !console.text().contains(&done) {
        console.wait_for(&done)?;
    }
    let text = console.text();
    for (number, (kind, why)) in (1..).zip(ENDS) {
        let line = format!("(XEN) domain {number} crashed: its exception vector ");
        let ends: Vec<&str> = text.lines().filter(|l| l.contains(&line)).collect();
        ensure!(
            ends.iter().any(|end| end.contains(why)),
            "{kind} did not end so: {ends:?}\n{}",
            console.tail()
        );
        ensure!(
            text.contains(&format!("(XEN) d{number}v0: pc "))
                || text.contains(&format!("(XEN) d{number}v1: pc ")),
            "{kind} ended without registers"
        );
    }
    for number in [endless, neighbour] {
        ensure!(
            text.contains(&format!("(d{number}) [guest] begin "))
                && !text.contains(&format!("domain {number} crashed")),
            "domain {number} did not run, or did not go on\n{}",
            console.tail()
        );
    }
    ensure!(
        text.contains("(d1) [guest] ok calls.hypercalls_with_wild_pointers")
            && !text.contains("FAIL"),
        "a case failed\n{}",
        console.tail()
    );
    console.keys_to_hypervisor(neighbour)?;
    console.send("R")?;
    console.wait_for_power_off()
}

/// Nothing tells the domains apart in the TLB of the CPU that they share.
fn without_vmids(board: &'static Board) -> Result<()> {
    check(board, "alone-without-vmids", "vmid=no maxcpus=1")
}

fn check(board: &'static Board, name: &str, xen_words: &str) -> Result<()> {
    const GUEST: &str = "guest-neighbour";
    // Each offers a port and a page to the other.
    let guests = [2, 1].map(|peer| (GUEST, format!("seconds=2 peer={peer}")));
    let mut console = start(board, &format!("{name}-{}", board.name), xen_words, guests)?;
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
