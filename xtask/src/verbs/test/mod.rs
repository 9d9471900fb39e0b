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
mod harts;
mod host;
mod images;
mod machine_checks;
mod narrow;
mod neighbours;
mod nmi;
mod pair;
mod ports;
mod pv_kernel;

use std::process::ExitCode;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use anyhow::Result;
use clap::Args;

use crate::arch::Arch;
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
    /// What it is about. Tests of one architecture run in turn: they share files.
    arch: Arch,
    /// Whether it needs an emulator, and not only the toolchains.
    emulated: bool,
    /// Runs it; the error says what is wrong.
    run: Box<dyn Fn() -> Result<()> + Send>,
}

impl Case {
    /// One that needs the toolchains alone.
    pub(crate) fn build(
        arch: Arch,
        name: impl Into<String>,
        run: impl Fn() -> Result<()> + Send + 'static,
    ) -> Self {
        Self {
            name: name.into(),
            arch,
            emulated: false,
            run: Box::new(run),
        }
    }

    /// One that needs an emulator too.
    pub(crate) fn machine(
        arch: Arch,
        name: impl Into<String>,
        run: impl Fn() -> Result<()> + Send + 'static,
    ) -> Self {
        Self {
            emulated: true,
            ..Self::build(arch, name, run)
        }
    }

    fn check(&self, tally: &Tally) {
        let started = Instant::now();
        let verdict = (self.run)();
        let name = format!("{} ({} s)", self.name, started.elapsed().as_secs());
        match verdict {
            Ok(()) => tally.passed(&name),
            Err(error) => tally.failed(&name, &format!("{error:#}")),
        }
    }
}

/// What has been counted so far.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    passed: u32,
    failed: Vec<String>,
}

impl Tally {
    /// Counts and prints a test that passed.
    pub(crate) fn passed(&self, name: &str) {
        let mut counts = self.counts();
        println!("ok   {name}");
        counts.passed += 1;
    }

    /// Counts and prints a test that failed, with what it said.
    pub(crate) fn failed(&self, name: &str, why: &str) {
        let mut counts = self.counts();
        println!("FAIL {name}");
        for line in why.lines() {
            println!("    {line}");
        }
        counts.failed.push(name.to_string());
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
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
        .filter(|case| wanted(&case.name) && !(args.no_emulator && case.emulated))
        .collect();
    if args.list {
        println!("host/… (each test of `cargo test`)");
        cases.iter().for_each(|case| println!("{}", case.name));
        return Ok(ExitCode::SUCCESS);
    }
    let tally = Tally::default();
    // Building the host's tests takes its time: a filter that means machines leaves them out.
    let with_host = cases.is_empty()
        || args
            .filter
            .as_deref()
            .is_none_or(|text| text.contains("host"));
    if !cases.is_empty() {
        setup::run()?;
    }
    // Two lanes, for the two CPUs that a small machine has: most of x86-64's machines have one thread.
    let (first, second): (Vec<Case>, Vec<Case>) = cases
        .into_iter()
        .partition(|case| case.arch == Arch::X86_64);
    thread::scope(|scope| {
        scope.spawn(|| {
            // A reference to the cases would have to be `Sync`; they move in instead.
            let first = first;
            first.iter().for_each(|case| case.check(&tally));
        });
        if with_host {
            host::run(&tally, args.filter.as_deref())?;
        }
        second.iter().for_each(|case| case.check(&tally));
        anyhow::Ok(())
    })?;
    Ok(report(&tally.counts()))
}

fn report(tally: &Counts) -> ExitCode {
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
