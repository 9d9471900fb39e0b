//! `cargo xtask bench`: the same measurements on Xenolith and on Debian's Xen, in the same emulator, side by side.
//!
//! One instruction is one nanosecond of the machine's time (`-icount`), so the figures repeat and need no quiet machine.
//! What is run and which ratio is the goal stands in `xtask/data/bench.json`.

mod boot;
mod chart;
mod plan;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;

use crate::arch::Arch;
use crate::boards::{self, Board};
use crate::guest::{self, On};
use crate::paths;
use crate::results::Results;
use crate::verbs::bench::plan::{Plan, PlannedRun};
use crate::verbs::bench::table::Row;
use crate::verbs::{build, setup};

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
    if arch != Arch::Aarch64 {
        bail!(
            "no domain runs on {} yet, so there is nothing to measure",
            arch.name()
        );
    }
    setup::ensure(arch)?;
    let board = boards::find(None, Some(arch))?;
    let plan = Plan::read()?;
    let mut rows = Vec::new();
    for run in &plan.runs {
        rows.extend(guest_rows(board, &plan, run, args.reference)?);
    }
    let wanted = |name: &str| {
        args.filter
            .as_deref()
            .is_none_or(|text| name.contains(text))
    };
    if boot::NAMES.iter().any(|name| wanted(name)) {
        rows.extend(boot::rows(board, &plan, args.reference)?);
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
    let missed = rows
        .iter()
        .filter(|row| row.met() == Some(false) || (row.goal.is_some() && row.met().is_none()))
        .count();
    Ok(if args.check && missed > 0 {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// The figures of one run of a guest on both hypervisors.
fn guest_rows(
    board: &'static Board,
    plan: &Plan,
    run: &PlannedRun,
    reference: bool,
) -> Result<Vec<Row>> {
    let guests = build::guests(board.arch)?;
    let Some(guest) = guests.iter().find(|guest| guest.name == run.guest) else {
        eprintln!(
            "package xenolith-guests has no program {}: left out",
            run.guest
        );
        return Ok(Vec::new());
    };
    let how = guest::Run {
        board,
        cpus: run.cpus,
        icount: run.icount,
        words: &run.words,
        xen_words: &run.xen_words,
        limit: Duration::from_secs(180),
    };
    let xen = measured(guest::run(guest, On::Xen, &how));
    let xenolith = if reference {
        Results::default()
    } else {
        measured(guest::run(guest, On::Xenolith, &how))
    };
    let mut names: Vec<&str> = xen
        .values
        .iter()
        .chain(&xenolith.values)
        .map(|(name, _)| name.as_str())
        .collect();
    let mut seen = std::collections::HashSet::new();
    names.retain(|name| seen.insert(*name) && !plan.not_figures.iter().any(|other| other == name));
    let row = |name: &&str| {
        Row::new(
            name,
            board.arch,
            &run.unit,
            xenolith.value(name),
            xen.value(name),
            plan.goal(name),
        )
    };
    Ok(names.iter().map(row).collect())
}

/// A run that did not come to its end leaves holes in the table; the reason is printed.
fn measured(results: Result<Results>) -> Results {
    results.unwrap_or_else(|error| {
        eprintln!("not measured: {error:#}");
        Results::default()
    })
}
