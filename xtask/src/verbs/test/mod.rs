//! `cargo xtask test`: every test, one line each, and at the end `N passed, N failed`.
//!
//! First the host's tests, each of which counts by itself; then the machines in the emulator. A further test is one entry
//! in `cases.rs` or in a file that it lists.

mod alone;
mod bad_cpu;
mod bad_input;
mod bad_tree;
mod cases;
mod devices;
mod differences;
mod guests;
mod host;
mod images;
mod machine_checks;
mod narrow;
mod neighbours;
mod pair;
mod ports;
mod pv_kernel;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use clap::Args;

use crate::verbs::setup;

/// Which tests to run.
#[derive(Args, Debug)]
pub(crate) struct TestArgs {
    /// Run only the tests whose name contains this text
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
    /// List the tests in the emulator and the groups of host tests, and run nothing
    #[arg(long)]
    list: bool,
    /// Run only what needs no emulator
    #[arg(long)]
    no_emulator: bool,
}

/// One test that is not one of cargo's.
pub(crate) struct Case {
    /// Its name, a few words with slashes between group and member.
    pub(crate) name: String,
    /// What it needs.
    pub(crate) needs: Needs,
    /// Runs it; the error says what is wrong.
    pub(crate) run: Box<dyn Fn() -> Result<()>>,
}

/// What a test needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Needs {
    /// The host's toolchain and the one for bare metal.
    Toolchains,
    /// An emulator too.
    Emulator,
}

/// What has been counted so far.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    passed: u32,
    failed: Vec<String>,
}

impl Tally {
    /// Counts and prints a test that passed.
    pub(crate) fn passed(&mut self, name: &str) {
        println!("ok   {name}");
        self.passed += 1;
    }

    /// Counts and prints a test that failed, with what it said.
    pub(crate) fn failed(&mut self, name: &str, why: &str) {
        println!("FAIL {name}");
        for line in why.lines() {
            println!("    {line}");
        }
        self.failed.push(name.to_string());
    }
}

/// Runs the tests. The exit code is a failure if one failed or none ran.
pub(crate) fn run(args: &TestArgs) -> Result<ExitCode> {
    let wanted = |name: &str| {
        args.filter
            .as_deref()
            .is_none_or(|text| name.contains(text))
    };
    let cases: Vec<Case> = cases::all()?
        .into_iter()
        .filter(|case| wanted(&case.name) && !(args.no_emulator && case.needs == Needs::Emulator))
        .collect();
    if args.list {
        println!("host/… (each test of `cargo test`)");
        cases.iter().for_each(|case| println!("{}", case.name));
        return Ok(ExitCode::SUCCESS);
    }
    let mut tally = Tally::default();
    // Building the host's tests takes its time: a filter that means machines leaves them out.
    if cases.is_empty()
        || args
            .filter
            .as_deref()
            .is_none_or(|text| text.contains("host"))
    {
        host::run(&mut tally, args.filter.as_deref())?;
    }
    if !cases.is_empty() {
        setup::run()?;
    }
    for case in &cases {
        let started = Instant::now();
        match (case.run)() {
            Ok(()) => tally.passed(&format!(
                "{} ({} s)",
                case.name,
                started.elapsed().as_secs()
            )),
            Err(error) => tally.failed(
                &format!("{} ({} s)", case.name, started.elapsed().as_secs()),
                &format!("{error:#}"),
            ),
        }
    }
    Ok(report(&tally))
}

fn report(tally: &Tally) -> ExitCode {
    if !tally.failed.is_empty() {
        println!("\nfailed:");
        tally.failed.iter().for_each(|name| println!("    {name}"));
    }
    if tally.passed == 0 && tally.failed.is_empty() {
        println!("\nno test has such a name: `cargo xtask test --list` shows them");
    }
    println!("\n{} passed, {} failed", tally.passed, tally.failed.len());
    if tally.failed.is_empty() && tally.passed > 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
