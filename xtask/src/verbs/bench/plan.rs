//! What is measured and which ratio is the goal: the data file `xtask/data/bench-ARCH.json`.

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::arch::Arch;

const AARCH64: &str = include_str!("../../../data/bench-aarch64.json");
const X86_64: &str = include_str!("../../../data/bench-x86_64.json");

/// The data file.
#[derive(Debug)]
pub(crate) struct Plan {
    /// The guests to run.
    pub(crate) runs: Vec<PlannedRun>,
    /// The most instructions from the hypervisor's entry to dom0's first one.
    pub(crate) entry_to_dom0: Option<f64>,
    /// The most instructions to dom0's user space, as a multiple of those on the bare machine.
    pub(crate) user_space_over_bare: Option<f64>,
    /// The most bytes of the image.
    pub(crate) image_bytes: f64,
    /// The most bytes of hypervisor memory that an idle domain with one vCPU costs, its second-level tables aside.
    pub(crate) idle_domain_bytes: Option<f64>,
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
    /// Words for the hypervisor.
    pub(crate) xen_words: String,
    /// How the guest runs, in a word.
    pub(crate) mode: String,
    /// The unit of the figures.
    pub(crate) unit: String,
    /// What of the guest's values goes into the table.
    pub(crate) figures: Vec<Figure>,
}

/// One figure.
#[derive(Debug)]
pub(crate) struct Figure {
    /// Its name.
    pub(crate) name: String,
    /// The largest part of Xen's figure that is good.
    pub(crate) goal: Option<f64>,
}

impl Plan {
    /// Reads the file, which is part of the program.
    pub(crate) fn read(arch: Arch) -> Result<Plan> {
        let text = match arch {
            Arch::Aarch64 => AARCH64,
            Arch::X86_64 => X86_64,
            Arch::Riscv64 => bail!("no domain runs on riscv64 yet, so there is nothing to measure"),
        };
        let file: Value = serde_json::from_str(text)?;
        parse(&file).with_context(|| {
            let name = arch.name();
            format!("xtask/data/bench-{name}.json lacks a field or has one of a wrong kind")
        })
    }
}

fn parse(file: &Value) -> Option<Plan> {
    Some(Plan {
        runs: list(&file["runs"], parse_run)?,
        entry_to_dom0: file["entry_to_dom0_instructions"].as_f64(),
        user_space_over_bare: file["user_space_over_bare"].as_f64(),
        image_bytes: file["image_bytes"].as_f64()?,
        idle_domain_bytes: file["idle_domain_bytes"].as_f64(),
    })
}

fn parse_run(run: &Value) -> Option<PlannedRun> {
    let text = |name: &str| run[name].as_str().map(str::to_string);
    Some(PlannedRun {
        guest: text("guest")?,
        words: text("words")?,
        cpus: u32::try_from(run["cpus"].as_u64()?).ok()?,
        xen_words: text("xen_words")?,
        mode: text("mode")?,
        unit: text("unit")?,
        figures: list(&run["figures"], parse_figure)?,
    })
}

fn parse_figure(figure: &Value) -> Option<Figure> {
    let goal = &figure["goal"];
    Some(Figure {
        name: figure["name"].as_str()?.to_string(),
        goal: match goal.is_null() {
            true => None,
            false => Some(goal.as_f64()?),
        },
    })
}

fn list<T>(value: &Value, item: fn(&Value) -> Option<T>) -> Option<Vec<T>> {
    value.as_array()?.iter().map(item).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_data_file_is_complete() {
        let plan = Plan::read(Arch::Aarch64).unwrap();
        let mut figures = plan.runs.iter().flat_map(|run| &run.figures);
        let goal = |figure: &Figure| (figure.name.clone(), figure.goal);
        assert_eq!(
            figures.next().map(goal),
            Some(("xen_version".into(), Some(0.4)))
        );
        assert!(figures.any(|figure| figure.goal.is_none()));
        assert!(!Plan::read(Arch::X86_64).unwrap().runs.is_empty());
        assert!(Plan::read(Arch::Riscv64).is_err());
    }
}
