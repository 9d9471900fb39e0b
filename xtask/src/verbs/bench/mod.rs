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
use crate::emulator::Emulator;
use crate::guest::{self, On};
use crate::results::Results;
use crate::verbs::bench::plan::{Figure, Plan, PlannedRun};
use crate::verbs::bench::table::{Goal, Row};
use crate::verbs::{build, setup};
use crate::{fetch, paths};

/// What to do with the figures.
#[derive(Args, Debug)]
pub(crate) struct BenchArgs {
    /// Write the figures as JSON: a list of {"name", "arch", "mode", "unit", "xenolith", "xen", "ratio", "goal"}
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write a bar chart [default: target/xtask/bench.svg]
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Measure only figures whose name contains this text
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
    for run in &plan.runs {
        if run.figures.iter().any(|figure| wanted(&figure.name)) {
            rows.extend(guest_rows(board, run, args.reference)?);
        }
    }
    rows.extend(boot::rows(board, &plan, args.reference, &wanted)?);
    if let Some(most) = plan.idle_domain_bytes
        && wanted(idle::NAME)
    {
        rows.push(idle::row(board, most, args.reference)?);
    }
    rows.retain(|row| wanted(&row.name));
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
        if reference && on == On::Xenolith {
            return Results::default();
        }
        // A run that did not come to its end leaves holes in the table; the reason is printed.
        guest_results(board, run, on).unwrap_or_else(|error| {
            eprintln!("not measured: {error:#}");
            Results::default()
        })
    });
    let row = |figure: &Figure| {
        let (name, goal) = (figure.name.as_str(), figure.goal.map(Goal::OfXen));
        Row::new(name, board.arch, &run.mode, &run.unit, goal)
            .measured(xenolith.value(name), xen.value(name))
    };
    Ok(run.figures.iter().map(row).collect())
}

fn guest_results(board: &'static Board, run: &PlannedRun, on: On) -> Result<Results> {
    let guests = build::guests(board.arch)?;
    let guest = guests.iter().find(|guest| guest.name == run.guest);
    let guest =
        guest.with_context(|| format!("package xenolith-guests has no program {}", run.guest))?;
    // Debian 12's own QEMU counts with one processor only.
    let newer = match run.cpus {
        1 => None,
        _ => Some(fetch::newer_emulator(board.arch)?),
    };
    let how = guest::Run {
        board,
        cpus: run.cpus,
        icount: true,
        runs_in: Emulator::Qemu,
        emulator: newer.as_deref(),
        words: &run.words,
        xen_words: &run.xen_words,
        limit: Duration::from_secs(180),
    };
    guest::run(guest, on, &how)
}
