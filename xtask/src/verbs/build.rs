//! `cargo xtask build`: the bootable images and the test guests.
//!
//! Cargo makes an ELF file; beside it the flat binary is written that boot loaders take. Both are in
//! `target/xenolith/ARCH/`.

use std::collections::BTreeMap;
use std::fs;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::arch::Arch;
use crate::toolchain::Toolchain;
use crate::{elf, paths, process};

/// What to build.
#[derive(Args, Debug)]
pub(crate) struct BuildArgs {
    /// Build for all three architectures
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    features: Features,
    /// Only the hypervisor, not the test guests
    #[arg(long)]
    no_guests: bool,
}

/// Which drivers an image has; `platforms/*/Cargo.toml` lists them.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct Features {
    /// Cargo features of the image, separated by commas: drivers to build in (aarch64: gicv2, gicv3, pl011, cadence,
    /// ns16550)
    #[arg(long, value_name = "LIST")]
    pub(crate) features: Option<String>,
    /// Build in only what --features names, not every driver
    #[arg(long, requires = "features")]
    pub(crate) no_default_features: bool,
}

impl Features {
    /// Only these.
    pub(crate) fn only(list: &str) -> Self {
        Self {
            features: Some(list.into()),
            no_default_features: true,
        }
    }

    /// Cargo's words for them.
    pub(crate) fn words(&self) -> Vec<&str> {
        let mut words = Vec::new();
        if self.no_default_features {
            words.push("--no-default-features");
        }
        if let Some(list) = &self.features {
            words.extend(["--features", list]);
        }
        words
    }

    /// Whether they leave out the driver that is the feature `name`.
    pub(crate) fn leave_out(&self, name: &str) -> bool {
        let list = self.features.as_deref().unwrap_or_default();
        self.no_default_features && !list.split([',', ' ']).any(|feature| feature == name)
    }
}

/// One built image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Built {
    /// The name of the binary.
    pub(crate) name: String,
    /// The ELF file, with symbols.
    pub(crate) elf: PathBuf,
    /// What is started: the flat binary, or the ELF file itself.
    pub(crate) bin: PathBuf,
    /// Bytes of what is started.
    pub(crate) size: u64,
}

/// Builds what the options say and prints where it is.
pub(crate) fn run(args: &BuildArgs, arch: Option<Arch>) -> Result<()> {
    let arches: Vec<Arch> = if args.all {
        Arch::ALL.to_vec()
    } else {
        vec![arch.unwrap_or(Arch::DEFAULT)]
    };
    for arch in arches {
        shown(&hypervisor_with(arch, &args.features)?);
        if !args.no_guests {
            guests(arch)?.iter().for_each(shown);
        }
    }
    Ok(())
}

fn shown(built: &Built) {
    println!(
        "{} ({} KiB)",
        paths::shown(&built.bin),
        built.size.div_ceil(1024)
    );
}

/// Builds Xenolith with its default features.
pub(crate) fn hypervisor(arch: Arch) -> Result<Built> {
    hypervisor_with(arch, &Features::default())
}

/// Builds Xenolith with chosen drivers.
pub(crate) fn hypervisor_with(arch: Arch, features: &Features) -> Result<Built> {
    let package = arch.image_package();
    let elves = cargo_build(&arch.image_target(), package, &features.words())?;
    let [elf] = elves.as_slice() else {
        bail!("package {package} has {} programs, not one", elves.len())
    };
    flat("xenolith", elf, &arch.images())
}

/// The 32-bit guest of x86-64: its target and its package.
pub(crate) const NARROW_GUEST: (&str, &str) = ("i686-guest", "xenolith-guest-narrow");

/// The PV guests of x86-64, made of the same sources for the same target.
pub(crate) const PV_GUESTS: &str = "xenolith-guests-pv";

/// Builds the test guests, if there are any for the architecture.
pub(crate) fn guests(arch: Arch) -> Result<Vec<Built>> {
    let Some(target) = arch.guest_target() else {
        return Ok(Vec::new());
    };
    let mut elves = cargo_build(&target, "xenolith-guests", &["--bins"])?;
    if arch == Arch::X86_64 {
        elves.extend(cargo_build(&target, PV_GUESTS, &["--bins"])?);
        let (target, package) = NARROW_GUEST;
        elves.extend(cargo_build(target, package, &["--bins"])?);
    }
    let folder = arch.images().join("guests");
    elves
        .iter()
        .map(|elf| match arch {
            // These guests are started as the ELF files that they are.
            Arch::X86_64 => whole(&file_name(elf), elf, &folder),
            _ => flat(&file_name(elf), elf, &folder),
        })
        .collect()
}

/// What this process has built already. A test run asks for the same images many times, and cargo would repeat the
/// warnings each time.
static BUILT: Mutex<BTreeMap<String, Vec<PathBuf>>> = Mutex::new(BTreeMap::new());

/// Builds one package for bare metal, once, and returns its ELF files.
fn cargo_build(target: &str, package: &str, more: &[&str]) -> Result<Vec<PathBuf>> {
    let key = format!("{target} {package} {more:?}");
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(elves) = built.get(&key) {
        return Ok(elves.clone());
    }
    let elves = cargo_build_now(target, package, more)?;
    built.insert(key, elves.clone());
    Ok(elves)
}

fn cargo_build_now(target: &str, package: &str, more: &[&str]) -> Result<Vec<PathBuf>> {
    let toolchain = Toolchain::find()?;
    let mut command = toolchain.cargo("build", target);
    command.args(["--release", "--package", package]).args(more);
    command.args(["--message-format", "json-render-diagnostics"]);
    // At a terminal cargo shows its own progress; a log gets one line, and only if there was something to do.
    if !std::io::stderr().is_terminal() {
        command.arg("--quiet");
    }
    let started = Instant::now();
    let output = command.stderr(Stdio::inherit()).output();
    let output = output.with_context(|| format!("cannot start {}", process::shown(&command)))?;
    if !output.status.success() {
        bail!("{package} does not build (messages above)");
    }
    if started.elapsed().as_secs() > 5 {
        let (seconds, origin) = (started.elapsed().as_secs(), toolchain.origin);
        eprintln!("built {package} for {target} with {origin} in {seconds} s");
    }
    Ok(executables(&String::from_utf8_lossy(&output.stdout)))
}

/// The programs named in cargo's messages.
fn executables(messages: &str) -> Vec<PathBuf> {
    let parsed = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let mut found: Vec<PathBuf> = parsed
        .filter_map(|message| Some(PathBuf::from(message.get("executable")?.as_str()?)))
        .collect();
    found.sort();
    found
}

fn flat(name: &str, elf: &Path, folder: &Path) -> Result<Built> {
    let bytes = paths::read(elf)?;
    let flat = elf::flatten(&bytes)
        .with_context(|| format!("{} cannot be made a flat image", paths::shown(elf)))?;
    let built = Built {
        name: name.to_string(),
        elf: folder.join(format!("{name}.elf")),
        bin: folder.join(format!("{name}.bin")),
        size: flat.bytes.len() as u64,
    };
    write_if_changed(&built.elf, &bytes)?;
    write_if_changed(&built.bin, &flat.bytes)?;
    Ok(built)
}

/// The ELF file as the thing to start.
fn whole(name: &str, elf: &Path, folder: &Path) -> Result<Built> {
    let bytes = paths::read(elf)?;
    let path = folder.join(format!("{name}.elf"));
    write_if_changed(&path, &bytes)?;
    Ok(Built {
        name: name.to_string(),
        elf: path.clone(),
        bin: path,
        size: bytes.len() as u64,
    })
}

/// Unchanged files keep their times, so that what is made from them need not be made again.
fn write_if_changed(path: &Path, content: &Vec<u8>) -> Result<()> {
    if fs::read(path).ok().as_ref() == Some(content) {
        return Ok(());
    }
    paths::write(path, content)
}

fn file_name(path: &Path) -> String {
    path.file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_is_left_out_when_only_others_are_named() {
        let features = Features::only("gicv3,pl011");
        assert!(features.leave_out("gicv2") && !features.leave_out("pl011"));
        assert!(!Features::default().leave_out("gicv2"));
        assert_eq!(
            features.words(),
            ["--no-default-features", "--features", "gicv3,pl011"]
        );
    }

    #[test]
    fn programs_are_found_in_cargos_messages() {
        let messages = "{\"reason\":\"compiler-artifact\",\"executable\":null}\n\
                        {\"reason\":\"compiler-artifact\",\"executable\":\"/t/release/b\"}\nnot json\n\
                        {\"reason\":\"compiler-artifact\",\"executable\":\"/t/release/a\"}\n{\"reason\":\"build-finished\"}\n";
        assert_eq!(
            executables(messages),
            [PathBuf::from("/t/release/a"), PathBuf::from("/t/release/b")]
        );
    }
}
