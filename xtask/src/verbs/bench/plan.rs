//! What is measured and which ratio is the goal: the data file `xtask/data/bench.json`.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde_json::Value;

const FILE: &str = include_str!("../../../data/bench.json");

/// The data file.
#[derive(Debug)]
pub(crate) struct Plan {
    /// The guests to run.
    pub(crate) runs: Vec<PlannedRun>,
    /// Values that guests print beside their figures.
    pub(crate) not_figures: Vec<String>,
    /// The most instructions from the hypervisor's entry to dom0's first one.
    pub(crate) entry_to_dom0: f64,
    /// The most instructions to dom0's user space, as a multiple of those on the bare machine.
    pub(crate) user_space_over_bare: f64,
    /// The most bytes of the image.
    pub(crate) image_bytes: f64,
    goals: BTreeMap<String, f64>,
}

/// One run of a guest.
#[derive(Debug)]
pub(crate) struct PlannedRun {
    /// The guest's program.
    pub(crate) guest: String,
    /// Words for the guest.
    pub(crate) words: String,
    /// Processors of the machine.
    pub(crate) cpus: u32,
    /// Whether instructions are counted; QEMU can do so with one processor only.
    pub(crate) icount: bool,
    /// The unit of the figures.
    pub(crate) unit: String,
    /// Words for the hypervisor.
    pub(crate) xen_words: String,
}

impl Plan {
    /// Reads the file, which is part of the program.
    pub(crate) fn read() -> Result<Plan> {
        let file: Value = serde_json::from_str(FILE)?;
        parse(&file).context("xtask/data/bench.json lacks a field or has one of a wrong kind")
    }

    /// The largest ratio to Xen that is good.
    pub(crate) fn goal(&self, name: &str) -> Option<f64> {
        self.goals.get(name).copied()
    }
}

fn parse(file: &Value) -> Option<Plan> {
    let runs = file["runs"]
        .as_array()?
        .iter()
        .map(parse_run)
        .collect::<Option<_>>()?;
    let not_figures = file["not_figures"]
        .as_array()?
        .iter()
        .map(|name| Some(name.as_str()?.to_string()))
        .collect::<Option<_>>()?;
    let goals = file["goals"]
        .as_object()?
        .iter()
        .map(|(name, goal)| Some((name.clone(), goal.as_f64()?)))
        .collect::<Option<_>>()?;
    Some(Plan {
        runs,
        not_figures,
        goals,
        entry_to_dom0: file["entry_to_dom0_instructions"].as_f64()?,
        user_space_over_bare: file["user_space_over_bare"].as_f64()?,
        image_bytes: file["image_bytes"].as_f64()?,
    })
}

fn parse_run(run: &Value) -> Option<PlannedRun> {
    let text = |name: &str| run[name].as_str().map(str::to_string);
    Some(PlannedRun {
        guest: text("guest")?,
        words: text("words")?,
        cpus: u32::try_from(run["cpus"].as_u64()?).ok()?,
        icount: run["icount"].as_bool()?,
        unit: text("unit")?,
        xen_words: text("xen_words")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_data_file_is_complete() {
        let plan = Plan::read().unwrap();
        assert!(plan.runs.iter().all(|run| run.cpus == 1 || !run.icount));
        assert_eq!(plan.goal("xen_version"), Some(0.4));
        assert_eq!(plan.goal("no_such_figure"), None);
    }
}
