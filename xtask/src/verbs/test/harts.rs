//! RISC-V machines that are not as the board's own: harts without something, harts that differ, no interrupt controller. Guests
//! are told what there is, and run.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::arch::Arch;
use crate::boards::{self, Board};
use crate::console::{Console, Echo};
use crate::emulator::{Emulator, Terminal};
use crate::guest::{self, On, Run};
use crate::results::{Outcome, Results};
use crate::verbs::build;
use crate::verbs::test::Case;

const LIMIT: Duration = Duration::from_secs(180);

/// A CPU of QEMU's without timer registers for S-mode.
pub(crate) const WITHOUT_SSTC: &str = "rv64,sstc=off";

struct Row {
    name: &'static str,
    guest: &'static str,
    cpus: u32,
    words: &'static str,
    cpu: Option<&'static str>,
    /// Added to the source text of the machine's device tree.
    amendments: &'static str,
    /// Texts on the console.
    says: &'static [&'static str],
}

const ROWS: &[Row] = &[
    Row {
        name: "guest-abi/without-sstc",
        guest: "guest-abi",
        cpus: 1,
        words: "",
        cpu: Some(WITHOUT_SSTC),
        amendments: "",
        says: &["[guest] ok "],
    },
    Row {
        name: "guest-traps/without-sstc",
        guest: "guest-traps",
        cpus: 1,
        words: "only=registers,sleep,user",
        cpu: Some(WITHOUT_SSTC),
        amendments: "",
        says: &["[guest] value registers.has_stimecmp 0"],
    },
    Row {
        name: "guest-smp/without-sstc",
        guest: "guest-smp",
        cpus: 4,
        words: "only=timer,cpu,ipi.to,ipi.wakes,runstate,event,harts",
        cpu: Some(WITHOUT_SSTC),
        amendments: "",
        says: &["[guest] ok timer.on_every_cpu"],
    },
    // Floating point of 32 bits alone, which guests do not get.
    Row {
        name: "guest-traps/without-doubles",
        guest: "guest-traps",
        cpus: 1,
        words: "only=fp.is_there,registers,instructions",
        cpu: Some("rv64,d=false"),
        amendments: "",
        says: &["[guest] value fp.is_told 0"],
    },
    // No PLIC for the hypervisor; the guest's own one is emulated.
    Row {
        name: "guest-smp/without-plic",
        guest: "guest-smp",
        cpus: 2,
        words: "only=plic,cpu,timer,event",
        cpu: None,
        amendments: "/delete-node/ &{/soc/plic@c000000};\n",
        says: &[
            "no PLIC: there is no console input",
            "[guest] ok event.ipi_to_every_vcpu",
        ],
    },
    // The hart that is asked last has less than the first one, and timer registers that are not said are not used.
    Row {
        name: "guest-smp/unlike-harts",
        guest: "guest-smp",
        cpus: 4,
        words: "only=harts,cpu,timer",
        cpu: None,
        amendments: "&{/cpus/cpu@3} { riscv,isa = \"rv64imafdch_zicsr_zbb\"; mmu-type = \"riscv,sv39\"; };\n",
        says: &["[guest] harts are rv64imafdc_zicsr_zbb, riscv,sv39\n"],
    },
];

/// One test per row.
pub(crate) fn cases() -> Result<Vec<Case>> {
    let board = boards::find(None, Some(Arch::Riscv64))?;
    let case = |row: &'static Row| {
        let (guest, variant) = row.name.split_once('/').unwrap_or((row.name, ""));
        let name = format!("guest/{guest}/{}/{variant}", board.name);
        Case::machine(board.arch, name, move || check(board, row))
    };
    Ok(ROWS.iter().map(case).collect())
}

fn check(board: &'static Board, row: &Row) -> Result<()> {
    let guests = build::guests(board.arch)?;
    let guest = guests.iter().find(|guest| guest.name == row.guest);
    let guest =
        guest.with_context(|| format!("package xenolith-guests has no program {}", row.guest))?;
    let run = Run {
        variant: "",
        board,
        cpus: row.cpus,
        icount: false,
        runs_in: Emulator::Qemu,
        emulator: None,
        cpu: row.cpu,
        words: row.words,
        xen_words: "",
        beside: &[],
        limit: LIMIT,
    };
    let name = format!("harts-{}", row.name.replace('/', "-"));
    let mut machine = guest::machine(&guest.bin, On::Xenolith, &run)?;
    let mut tree = machine.own_tree(&name)?;
    tree.amendments.push_str(row.amendments);
    machine.tree = Some(tree);
    let mut qemu = machine.command(Terminal::Pipes, &name)?;
    let mut console = Console::start(&mut qemu, &name, LIMIT, Echo::Log)?;
    console.wait_for_power_off()?;
    let results = Results::parse(console.text());
    results.check_complete()?;
    let failed = results.cases.iter().filter(|(_, out)| **out != Outcome::Ok);
    let failed: Vec<&str> = failed.map(|(name, _)| name.as_str()).collect();
    ensure!(failed.is_empty(), "cases failed: {}", failed.join(", "));
    for text in row.says {
        ensure!(
            console.text().contains(text),
            "it did not say {text:?}\n{}",
            console.tail()
        );
    }
    Ok(())
}
