//! The project's command line, `cargo xtask VERB`: sets up, builds, runs, tests and measures Xenolith.

mod arch;
mod boards;
mod bochs;
mod bzimage;
mod console;
mod cpio;
mod debian;
mod device_tree;
mod disk;
mod domains;
mod elf;
mod emulator;
mod fetch;
mod grub;
mod guest;
mod icount;
mod layout;
mod paths;
mod prepare;
mod process;
mod results;
mod rootfs;
mod terminal;
mod toolchain;
mod verbs;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::arch::Arch;

/// Builds, runs and tests Xenolith, a type-1 hypervisor that speaks the Xen ABI
///
/// `cargo xtask run` is all that is needed to see it: on Debian 12 as root it installs what is missing, builds, fetches
/// Debian's kernel and ends in a dom0 shell in QEMU.
#[derive(Parser, Debug)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    disable_version_flag = true
)]
struct Cli {
    /// Architecture [default: the board's, or x86_64; for `bench` aarch64]
    #[arg(long, global = true, value_name = "ARCH")]
    arch: Option<Arch>,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Install what building, running and testing need (as root on Debian; elsewhere name it)
    Setup,
    /// Build the hypervisor and the test guests for bare metal
    Build(verbs::build::BuildArgs),
    /// Build, and boot Debian Linux as dom0 in QEMU or Bochs, with a shell on this terminal
    Run(verbs::run::RunArgs),
    /// Boot dom0 without a terminal, run a few commands in it, and check what they say
    Smoke(verbs::smoke::SmokeArgs),
    /// Run every test, on the host and in the emulator
    Test(verbs::test::TestArgs),
    /// Measure Xenolith and Debian's Xen side by side, in instructions
    Bench(verbs::bench::BenchArgs),
    /// Check format, clippy, and the rules of layers and unsafe code
    Lint,
    /// Make images that boot by themselves: a CD and a disk with GRUB, or for an ARM board a disk with U-Boot's script
    Image(verbs::image::ImageArgs),
    /// List the boards
    Boards,
    /// Remove built images, logs and results
    Clean(verbs::clean::CleanArgs),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match dispatch(&cli) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(cli: &Cli) -> Result<ExitCode> {
    // A name of a board implies its architecture; otherwise x86-64 is meant, but for `bench`.
    match &cli.verb {
        Verb::Setup => verbs::setup::run()?,
        Verb::Build(args) => verbs::build::run(args, cli.arch)?,
        Verb::Run(args) => verbs::run::run(args, cli.arch)?,
        Verb::Smoke(args) => verbs::smoke::run(args, cli.arch)?,
        Verb::Test(args) => return verbs::test::run(args),
        Verb::Bench(args) => return verbs::bench::run(args, cli.arch),
        Verb::Lint => return verbs::lint::run(),
        Verb::Image(args) => verbs::image::run(args, cli.arch)?,
        Verb::Boards => verbs::boards::run(cli.arch)?,
        Verb::Clean(args) => verbs::clean::run(args)?,
    }
    Ok(ExitCode::SUCCESS)
}
