//! A private apt root: packages of another architecture or suite, without touching the machine's own package state.
//!
//! It lives under the cache, has its own lists and its own empty package database, and uses the machine's sources, keys
//! and proxy settings. Nothing in it is ever installed: files are taken out of the packages.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::arch::Arch;
use crate::debian::progress;
use crate::debian::sources::{Sources, Suites};
use crate::{paths, process};

/// Releases that have no packages for RISC-V.
const WITHOUT_RISCV: &[&str] = &["bullseye", "bookworm"];
/// The first that has.
const FIRST_WITH_RISCV: &str = "trixie";

/// A private apt root for one architecture, named as Debian names it.
pub(crate) struct PrivateRoot {
    arch: String,
    folder: PathBuf,
}

impl PrivateRoot {
    /// Packages of the machine's release for `arch`, or of the first release that knows the architecture.
    pub(crate) fn new(arch: Arch) -> Result<PrivateRoot> {
        let own = codename()?;
        let folder = format!("apt-{}", arch.debian());
        let suites = match arch {
            Arch::Riscv64 if WITHOUT_RISCV.contains(&own.as_str()) => Suites::Other {
                own: &own,
                wanted: FIRST_WITH_RISCV,
            },
            _ => Suites::Release(&own),
        };
        PrivateRoot::make(arch.debian(), suites, &folder)
    }

    /// Newer packages for the machine itself: the backports of its release.
    pub(crate) fn backports() -> Result<PrivateRoot> {
        let codename = codename()?;
        let arch = process::output(Command::new("dpkg").arg("--print-architecture"))?;
        PrivateRoot::make(arch.trim(), Suites::Backports(&codename), "apt-backports")
    }

    /// Makes the root and fetches the package lists.
    fn make(arch: &str, suites: Suites<'_>, folder: &str) -> Result<PrivateRoot> {
        if !process::exists("apt-get") || !process::exists("dpkg-deb") {
            bail!(
                "Debian's {arch} packages are fetched with apt, which this machine does not have;\n\
                 name your own files instead: --kernel FILE --initrd FILE"
            );
        }
        let sources = Sources::of_machine(Path::new("/etc/apt"), suites);
        if sources.is_empty() {
            bail!(
                "no package source for {suites} found in /etc/apt (sources.list, sources.list.d);\n\
                 add one, or name your own files: --kernel FILE --initrd FILE"
            );
        }
        let root = PrivateRoot {
            arch: arch.to_string(),
            folder: paths::cache().join(folder),
        };
        root.write_configuration(&sources)?;
        let what = format!("{suites} package lists ({arch})");
        progress::run_apt(root.apt(&["update"]), &what)?;
        Ok(root)
    }

    /// The newest package that the meta-package `name` depends on whose name starts with `prefix`.
    pub(crate) fn behind_meta_package(&self, name: &str, prefix: &str) -> Result<String> {
        let text = process::output(self.tool("apt-cache").args(["depends", name]))?;
        dependency(&text, prefix)
            .with_context(|| format!("Debian's package {name} names no package {prefix}*"))
    }

    /// Downloads packages into a folder and returns the files, in the order of the names.
    pub(crate) fn download(&self, names: &[&str], into: &Path) -> Result<Vec<PathBuf>> {
        paths::make_dir(into)?;
        let mut command = self.apt(&["download"]);
        command.args(names).current_dir(into);
        progress::run_apt(command, &format!("Debian packages ({})", self.arch))?;
        names.iter().map(|name| downloaded(into, name)).collect()
    }

    fn write_configuration(&self, sources: &Sources) -> Result<()> {
        for folder in [
            "state/lists/partial",
            "cache/archives/partial",
            "sources.list.d",
        ] {
            paths::make_dir(&self.folder.join(folder))?;
        }
        paths::write(
            &self.folder.join("sources.list.d/machine.sources"),
            sources.deb822.as_bytes(),
        )?;
        paths::write(
            &self.folder.join("sources.list.d/machine.list"),
            sources.classic.as_bytes(),
        )?;
        paths::write(&self.folder.join("status"), b"")?;
        let (folder, arch) = (self.folder.display(), &self.arch);
        let text = format!(
            "APT::Architecture \"{arch}\";\nAPT::Architectures {{ \"{arch}\"; }};\n\
             APT::Sandbox::User \"root\";\nAPT::Update::Post-Invoke {{}};\n\
             Acquire::Languages \"none\";\nAcquire::Retries \"3\";\n\
             Dir::State \"{folder}/state\";\nDir::State::status \"{folder}/status\";\nDir::Cache \"{folder}/cache\";\n\
             Dir::Etc::sourcelist \"/dev/null\";\nDir::Etc::sourceparts \"{folder}/sources.list.d\";\n"
        );
        paths::write(&self.folder.join("apt.conf"), text.as_bytes())
    }

    fn apt(&self, words: &[&str]) -> Command {
        let mut command = self.tool("apt-get");
        command.args(words);
        command
    }

    fn tool(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env("APT_CONFIG", self.folder.join("apt.conf"))
            .env("LC_ALL", "C");
        command
    }
}

/// Takes the members whose path matches one of the shell patterns out of a package, into `into`.
pub(crate) fn unpack(package: &Path, patterns: &[&str], into: &Path) -> Result<()> {
    paths::make_dir(into)?;
    let mut archive = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(package)
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start dpkg-deb")?;
    let members = archive.stdout.take().context("dpkg-deb has no output")?;
    let status = Command::new("tar")
        .args(["-x", "--wildcards", "-C"])
        .arg(into)
        .args(patterns)
        .stdin(members)
        .status();
    let status = status.context("cannot start tar")?;
    let archived = archive.wait()?;
    if !status.success() || !archived.success() {
        bail!(
            "cannot unpack {} from {}",
            patterns.join(", "),
            paths::shown(package)
        );
    }
    Ok(())
}

/// The code name of the machine's Debian release.
fn codename() -> Result<String> {
    let text = fs::read_to_string("/etc/os-release").context("cannot read /etc/os-release")?;
    let field = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name))
            .map(|value| value.trim_matches('"').to_string())
    };
    match (field("ID=").as_deref(), field("VERSION_CODENAME=")) {
        (Some("debian"), Some(codename)) => Ok(codename),
        (id, _) => bail!(
            "the kernel is taken from Debian's packages, and this machine is {};\n\
             name your own files instead: --kernel FILE --initrd FILE",
            id.unwrap_or("unknown")
        ),
    }
}

fn dependency(text: &str, prefix: &str) -> Option<String> {
    let names = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "));
    names
        .map(|name| name.trim_matches(['<', '>', ' ']))
        .find(|name| name.starts_with(prefix))
        .map(str::to_string)
}

fn downloaded(folder: &Path, name: &str) -> Result<PathBuf> {
    let start = format!("{name}_");
    let files = fs::read_dir(folder)?.filter_map(|entry| Some(entry.ok()?.path()));
    let mut found: Vec<PathBuf> = files
        .filter(|path| {
            path.file_name()
                .is_some_and(|file| file.to_string_lossy().starts_with(&start))
        })
        .collect();
    found.sort();
    found
        .pop()
        .with_context(|| format!("apt downloaded no file for {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_meta_package_names_the_newest_kernel() {
        let text = "linux-image-arm64\n  Depends: linux-image-6.1.0-56-arm64\n";
        assert_eq!(
            dependency(text, "linux-image-"),
            Some("linux-image-6.1.0-56-arm64".into())
        );
        assert_eq!(dependency(text, "xen-"), None);
    }
}
