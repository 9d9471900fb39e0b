//! Installing packages on the machine itself: only what is missing, and only as root on a Debian machine.

use std::collections::HashSet;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::debian::progress;
use crate::{paths, process};

/// The names among `wanted` that dpkg does not know as installed. Everything counts as missing where there is no dpkg.
pub(crate) fn missing<'a>(wanted: &[&'a str]) -> Vec<&'a str> {
    let answer = Command::new("dpkg-query")
        .args(["-W", "-f", "${db:Status-Status} ${Package}\n"])
        .args(wanted)
        .stdin(Stdio::null())
        .output();
    let listing = answer
        .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
        .unwrap_or_default();
    let installed = installed_names(&listing);
    wanted
        .iter()
        .copied()
        .filter(|name| !installed.contains(name))
        .collect()
}

fn installed_names(listing: &str) -> HashSet<&str> {
    listing
        .lines()
        .filter_map(|line| line.strip_prefix("installed "))
        .collect()
}

/// Installs `packages` by apt, with a progress bar; the full output is kept in `target/xtask/logs/apt.log`.
pub(crate) fn install(packages: &[&str]) -> Result<()> {
    if !process::exists("apt-get") || !is_root() {
        bail!(by_hand(packages));
    }
    let update = apt(&["update"]);
    progress::run_apt(update, "package lists")
        .context("apt-get update failed (is the network reachable?)")?;
    let mut words: Vec<String> = vec![
        "install".into(),
        "-y".into(),
        "--no-install-recommends".into(),
    ];
    words.extend(packages.iter().map(|name| name.to_string()));
    words.extend(held_back_by_a_newer_qemu(packages));
    let install = apt(&words.iter().map(String::as_str).collect::<Vec<_>>());
    progress::run_apt(install, &format!("installing {} packages", packages.len()))
        .with_context(|| format!("apt could not install: {}", packages.join(" ")))
}

/// What to tell somebody whose packages cannot be installed for them.
pub(crate) fn by_hand(packages: &[&str]) -> String {
    format!(
        "missing packages: {0}\ninstall them as root on Debian 12:\n    apt-get install --no-install-recommends {0}",
        packages.join(" ")
    )
}

fn apt(words: &[&str]) -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").args(words);
    command
}

/// A machine that has `qemu-utils` of a newer release refuses the older emulators ("Breaks"): it is then taken back to
/// the version of the emulators themselves.
fn held_back_by_a_newer_qemu(packages: &[&str]) -> Vec<String> {
    let Some(emulator) = packages
        .iter()
        .find(|name| name.starts_with("qemu-system-"))
    else {
        return Vec::new();
    };
    let (_, Some(wanted)) = policy(emulator) else {
        return Vec::new();
    };
    let stale: Vec<String> = [
        "qemu-utils",
        "qemu-system-common",
        "qemu-system-data",
        "qemu-block-extra",
    ]
    .iter()
    .filter(|name| policy(name).0.is_some_and(|installed| installed != wanted))
    .filter_map(|name| Some(format!("{name}={}", same_release(name, &wanted)?)))
    .collect();
    if stale.is_empty() {
        return stale;
    }
    std::iter::once("--allow-downgrades".to_string())
        .chain(stale)
        .collect()
}

/// The version of `name` that belongs to version `wanted` of an emulator: equal but for a binary rebuild suffix.
fn same_release(name: &str, wanted: &str) -> Option<String> {
    let listing = process::output(Command::new("apt-cache").args(["madison", name])).ok()?;
    let versions: Vec<&str> = listing
        .lines()
        .filter_map(|line| line.split('|').nth(1))
        .map(str::trim)
        .collect();
    let base = without_rebuild(wanted);
    let found = versions
        .iter()
        .find(|version| **version == wanted)
        .or_else(|| versions.iter().find(|v| without_rebuild(v) == base));
    found.map(|version| version.to_string())
}

fn without_rebuild(version: &str) -> &str {
    version.rsplit_once("+b").map_or(version, |(base, _)| base)
}

/// The installed and the candidate version.
fn policy(name: &str) -> (Option<String>, Option<String>) {
    let Ok(text) = process::output(
        Command::new("apt-cache")
            .env("LC_ALL", "C")
            .args(["policy", name]),
    ) else {
        return (None, None);
    };
    (
        policy_field(&text, "Installed:"),
        policy_field(&text, "Candidate:"),
    )
}

fn policy_field(text: &str, field: &str) -> Option<String> {
    let value = text
        .lines()
        .find_map(|line| line.trim().strip_prefix(field))?
        .trim();
    (value != "(none)").then(|| value.to_string())
}

/// Whether this process may install packages.
pub(crate) fn is_root() -> bool {
    process::output(Command::new("id").arg("-u")).is_ok_and(|id| id.trim() == "0")
}

/// The log that apt's own output goes to.
pub(crate) fn log() -> std::path::PathBuf {
    paths::logs().join("apt.log")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_fully_installed_packages_count() {
        let listing = "installed gcc\nnot-installed lld\nconfig-files mtools\ninstalled cpio\n";
        assert_eq!(installed_names(listing), HashSet::from(["gcc", "cpio"]));
    }

    #[test]
    fn a_binary_rebuild_is_the_same_release() {
        assert_eq!(
            without_rebuild("1:7.2+dfsg-7+deb12u18+b3"),
            "1:7.2+dfsg-7+deb12u18"
        );
        assert_eq!(without_rebuild("1:7.2+dfsg-7"), "1:7.2+dfsg-7");
    }

    #[test]
    fn policy_without_an_installed_version_is_none() {
        let text = "lld:\n  Installed: (none)\n  Candidate: 1:14.0\n";
        assert_eq!(policy_field(text, "Installed:"), None);
        assert_eq!(policy_field(text, "Candidate:"), Some("1:14.0".into()));
    }
}
