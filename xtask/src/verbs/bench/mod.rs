//! `cargo xtask bench`: the same measurements on Xenolith and on Debian's Xen, in the same emulator, side by side.
//!
//! One instruction is one nanosecond of the machine's time (`-icount`), so the figures repeat and need no quiet machine.
//! What is run and which ratio is the goal stands in `xtask/data/bench-ARCH.json`; `docs/benchmark.md` says how each figure
//! is got.

mod boot;
mod chart;
mod idle;
mod plan;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;

use crate::arch::Arch;
use crate::boards::{self, Board};
use crate::domains::Domain;
use crate::emulator::Emulator;
use crate::guest::{self, Kind, On, PARAVIRTUAL_RUNS};
use crate::results::Results;
use crate::verbs::bench::plan::{Figure, Plan, PlannedRun};
use crate::verbs::bench::table::Row;
use crate::verbs::{build, setup};
use crate::{bochs, fetch, paths};

const LIMIT: Duration = Duration::from_secs(180);
/// Bochs is slower, and Xen takes several times as many instructions as Xenolith.
const BOCHS_LIMIT: Duration = Duration::from_secs(600);

/// What to do with the figures.
#[derive(Args, Debug)]
pub(crate) struct BenchArgs {
    /// Write the figures as JSON: a list of {"name", "arch", "mode", "unit", "xenolith", "xen", "ratio", "goal"}
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write a bar chart [default: target/xtask/bench.svg]
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Measure only figures whose name or mode contains this text
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
    /// Fail if a goal is not met
    #[arg(long)]
    check: bool,
    /// Measure Debian's Xen only
    #[arg(long, hide = true)]
    reference: bool,
}

/// Measures, prints the table, and writes the files that were asked for.
pub(crate) fn run(args: &BenchArgs, arch: Option<Arch>) -> Result<ExitCode> {
    let arch = arch.unwrap_or(Arch::Aarch64);
    let plan = Plan::read(arch)?;
    setup::ensure(arch)?;
    let board = boards::find(None, Some(arch))?;
    let mut rows = Vec::new();
    let wanted = |name: &str| {
        args.filter
            .as_deref()
            .is_none_or(|text| name.contains(text))
    };
    let runs = |run: &&PlannedRun| {
        PARAVIRTUAL_RUNS || Kind::of(&run.guest) != Kind::Paravirtual || args.reference
    };
    for run in plan.runs.iter().filter(runs) {
        let named = |figure: &Figure| wanted(&figure.name);
        if wanted(&run.mode) || run.figures.iter().any(named) {
            rows.extend(guest_rows(board, run, args.reference)?);
        }
    }
    rows.extend(boot::rows(board, &plan, args.reference, &wanted)?);
    if let Some(most) = plan.idle_domain_bytes
        && wanted(idle::NAME)
    {
        rows.push(idle::row(board, most, args.reference)?);
    }
    rows.retain(|row| wanted(&row.name) || wanted(&row.mode));
    print!("{}", table::text(&rows));
    if let Some(file) = &args.json {
        paths::write(file, table::json(&rows).as_bytes())?;
    }
    let svg = args
        .svg
        .clone()
        .unwrap_or_else(|| paths::work().join("bench.svg"));
    paths::write(&svg, chart::svg(&rows).as_bytes())?;
    println!("chart: {}", paths::shown(&svg));
    Ok(if args.check && rows.iter().any(Row::is_missed) {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// The figures of one run of a guest on both hypervisors.
fn guest_rows(board: &'static Board, run: &PlannedRun, reference: bool) -> Result<Vec<Row>> {
    let [xenolith, xen] = [On::Xenolith, On::Xen].map(|on| {
        // Debian has no Xen for RISC-V.
        let no_xen = !run.runs_on_xen() || board.arch == Arch::Riscv64;
        if reference && on == On::Xenolith || on == On::Xen && no_xen {
            return Results::default();
        }
        // A run that did not come to its end leaves holes in the table; the reason is printed.
        guest_results(board, run, on).unwrap_or_else(|error| {
            eprintln!("not measured: {error:#}");
            Results::default()
        })
    });
    let row = |figure: &Figure| {
        let name = figure.name.as_str();
        let row = Row::new(name, board.arch, &run.mode, &run.unit, figure.goal)
            .measured(xenolith.value(name), xen.value(name));
        match figure.stated_xen {
            Some(told) => row.beside_told(told),
            None => row,
        }
    };
    Ok(run.figures.iter().map(row).collect())
}

fn guest_results(board: &'static Board, run: &PlannedRun, on: On) -> Result<Results> {
    let guests = build::guests(board.arch)?;
    let named = |name: &str| {
        let guest = guests.iter().find(|guest| guest.name == name);
        guest.with_context(|| format!("package xenolith-guests has no program {name}"))
    };
    let mut beside = Vec::new();
    if let Some(domain) = &run.beside {
        beside.push(Domain {
            kernel: named(&domain.guest)?.bin.clone(),
            words: domain.words.clone(),
            cpus: 1,
            memory: domain.memory,
            tables: None,
        });
    }
    let bochs = run.runs_in == Emulator::Bochs;
    if bochs {
        bochs::ensure_tools()?;
    }
    // Debian 12's own QEMU counts with one processor only.
    let newer = match run.cpus {
        1 => None,
        _ => Some(fetch::newer_emulator(board.arch)?),
    };
    let variant = format!("-{}", run.mode);
    let how = guest::Run {
        variant: &variant,
        board,
        cpus: run.cpus,
        icount: !bochs,
        runs_in: run.runs_in,
        emulator: newer.as_deref(),
        words: &run.words,
        cpu: None,
        xen_words: &run.xen_words,
        beside: &beside,
        limit: if bochs { BOCHS_LIMIT } else { LIMIT },
    };
    guest::run(named(&run.guest)?, on, &how)
}
