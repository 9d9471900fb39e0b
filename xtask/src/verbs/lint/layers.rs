//! A lower layer never names an upper one: the dependencies between the workspace's crates, as cargo sees them.

use std::collections::BTreeMap;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{paths, process};

/// The layer of each crate by its folder: higher numbers stand on lower ones. Of two crates with the same number
/// neither may name the other.
const LAYERS: &[(&str, u32)] = &[
    ("core/abi", 0),
    ("hal", 1),
    ("hal/sim", 2),
    ("core", 2),
    ("drivers", 2),
    ("arch-common", 3),
    ("arch-aarch64", 4),
    ("arch-riscv64", 4),
    ("arch-x86_64", 4),
    ("platforms/arm64", 5),
    ("platforms/riscv64", 5),
    ("platforms/x86_64", 5),
    ("ci/guests", 5),
    ("ci/guests-pv", 5),
    ("ci/guest-narrow", 5),
    ("xtask", 6),
];

/// Test guests see what any guest sees: the ABI alone.
const GUESTS: (&str, &str) = ("ci/guests", "core/abi");

/// Checks every dependency but those of tests.
pub(crate) fn check() -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .args(["metadata", "--format-version", "1", "--no-deps"])
        .current_dir(paths::root());
    let metadata: Value = serde_json::from_str(&process::output(&mut command)?)
        .context("cargo metadata is not JSON")?;
    let found = violations(&edges(&metadata));
    if !found.is_empty() {
        bail!("{}", found.join("\n"));
    }
    Ok(())
}

/// Pairs of folders: the crate in the first one names the crate in the second one.
fn edges(metadata: &Value) -> Vec<(String, String)> {
    let root = metadata["workspace_root"].as_str().unwrap_or_default();
    let folder = |path: &str| {
        path.trim_end_matches("/Cargo.toml")
            .trim_start_matches(root)
            .trim_start_matches('/')
            .to_string()
    };
    let packages = metadata["packages"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let folders: BTreeMap<&str, String> = packages
        .iter()
        .filter_map(|package| {
            Some((
                package["name"].as_str()?,
                folder(package["manifest_path"].as_str()?),
            ))
        })
        .collect();
    let mut edges = Vec::new();
    for package in packages {
        let from = folders.get(package["name"].as_str().unwrap_or_default());
        for dependency in package["dependencies"]
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default()
        {
            let to = folders.get(dependency["name"].as_str().unwrap_or_default());
            if let (Some(from), Some(to), Some(_), true) = (
                from,
                to,
                dependency["path"].as_str(),
                dependency["kind"] != "dev",
            ) {
                edges.push((from.clone(), to.clone()));
            }
        }
    }
    edges
}

fn violations(edges: &[(String, String)]) -> Vec<String> {
    let layer = |folder: &str| {
        LAYERS
            .iter()
            .find(|(name, _)| *name == folder)
            .map(|(_, layer)| *layer)
    };
    let mut found = Vec::new();
    for (from, to) in edges {
        match (layer(from), layer(to)) {
            (Some(above), Some(below)) if above <= below => found.push(format!(
                "    {from} must not name {to}, which is not below it"
            )),
            (None, _) => found.push(format!(
                "    {from} has no layer: add it to the table in xtask's lint"
            )),
            _ if from == GUESTS.0 && to != GUESTS.1 => {
                found.push(format!("    {from} may name {} only, not {to}", GUESTS.1))
            }
            _ => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edge(from: &str, to: &str) -> Vec<(String, String)> {
        vec![(from.to_string(), to.to_string())]
    }

    #[test]
    fn a_lower_layer_must_not_name_an_upper_one() {
        assert!(violations(&edge("core", "hal")).is_empty());
        assert_eq!(violations(&edge("hal", "core")).len(), 1);
        assert_eq!(violations(&edge("arch-aarch64", "arch-x86_64")).len(), 1);
        assert_eq!(violations(&edge("ci/guests", "core")).len(), 1);
    }
}
