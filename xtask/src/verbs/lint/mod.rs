//! `cargo xtask lint`: format, clippy for the host and for bare metal, and the rules of the design that no compiler
//! checks.

mod layers;
mod source;

use std::process::{Command, ExitCode};
use std::thread;

use anyhow::{Result, bail};

use crate::arch::Arch;
use crate::toolchain::Toolchain;
use crate::verbs::build::{self, Features};
use crate::{paths, process};

/// Sets of drivers that an ARMv8 image must compile with, beside all of them: those of the boards.
const FEWER_DRIVERS: [&str; 2] = ["gicv3,pl011", "gicv2,cadence"];

/// Fails with all that it found.
type Check = fn() -> Result<()>;

/// Runs every check, also after one has failed. Clippy on the host and on bare metal keep to one CPU each for most of the
/// time, and to folders of their own.
pub(crate) fn run() -> Result<ExitCode> {
    let on_host = || {
        all_hold(&[
            ("format", format),
            ("layers", layers::check),
            ("source rules", source::check),
            ("clippy on the host", clippy),
        ])
    };
    let below = || {
        all_hold(&[
            ("clippy on bare metal", bare_metal),
            ("fewer drivers", fewer_drivers),
        ])
    };
    let hold = thread::scope(|scope| {
        let below = scope.spawn(below);
        on_host() & below.join().unwrap_or(false)
    });
    Ok(if hold {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn all_hold(checks: &[(&str, Check)]) -> bool {
    let mut hold = true;
    for (name, check) in checks {
        match check() {
            Ok(()) => println!("ok   {name}"),
            Err(error) => {
                println!("FAIL {name}\n{error:#}");
                hold = false;
            }
        }
    }
    hold
}

fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(paths::root());
    command
}

fn format() -> Result<()> {
    let mut command = cargo();
    command.args(["fmt", "--all", "--", "--check", "--color", "never"]);
    let output = command.output()?;
    if !output.status.success() {
        let changes = String::from_utf8_lossy(&output.stdout)
            .lines()
            .take(40)
            .collect::<Vec<_>>()
            .join("\n");
        bail!(
            "run `cargo fmt --all`:\n{changes}\n{}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

fn clippy() -> Result<()> {
    process::run(cargo().args(["clippy", "--quiet", "--all-targets", "--", "-D", "warnings"]))
}

/// The images and the guests, by clippy where the toolchain for bare metal has it, else by the compiler alone.
fn bare_metal() -> Result<()> {
    let toolchain = Toolchain::find()?;
    let (target, package) = build::NARROW_GUEST;
    process::run(&mut lint(&toolchain, target, package))?;
    for arch in Arch::ALL {
        let image = (arch.image_target(), arch.image_package());
        let guests = arch
            .guest_target()
            .map(|target| (target, "xenolith-guests"));
        let pv_guests = arch
            .guest_target()
            .filter(|_| arch == Arch::X86_64)
            .map(|target| (target, build::PV_GUESTS));
        for (target, package) in std::iter::once(image).chain(guests).chain(pv_guests) {
            process::run(&mut lint(&toolchain, &target, package))?;
        }
    }
    Ok(())
}

/// Images without some of the drivers.
fn fewer_drivers() -> Result<()> {
    let toolchain = Toolchain::find()?;
    let arch = Arch::Aarch64;
    for list in FEWER_DRIVERS {
        let mut command = lint(&toolchain, &arch.image_target(), arch.image_package());
        command.args(Features::only(list).words());
        process::run(&mut command)?;
    }
    Ok(())
}

fn lint(toolchain: &Toolchain, target: &str, package: &str) -> Command {
    let mut command = toolchain
        .clippy(target)
        .unwrap_or_else(|| toolchain.cargo("check", target));
    command.args(["--quiet", "--release", "--package", package]);
    command
}
