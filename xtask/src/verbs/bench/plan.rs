//! What is measured and which ratio is the goal: the data file `xtask/data/bench-ARCH.json`.

use anyhow::{Context, Result};
use serde_json::Value;

use crate::arch::Arch;
use crate::emulator::Emulator;
use crate::verbs::bench::table::Goal;

const AARCH64: &str = include_str!("../../../data/bench-aarch64.json");
const RISCV64: &str = include_str!("../../../data/bench-riscv64.json");
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
    /// The most time to a PV dom0's user space, as a part of Xen's.
    pub(crate) pv_user_space_of_xen: Option<f64>,
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
    /// What runs the machine; QEMU counts its instructions, Bochs' time-stamp counter does so by itself.
    pub(crate) runs_in: Emulator,
    /// Processors of the machine.
    pub(crate) cpus: u32,
    /// Words for the hypervisor.
    pub(crate) xen_words: String,
    /// A domain beside it, with one processor.
    pub(crate) beside: Option<Neighbour>,
    /// How the guest runs, in a word.
    pub(crate) mode: String,
    /// The unit of the figures.
    pub(crate) unit: String,
    /// What of the guest's values goes into the table.
    pub(crate) figures: Vec<Figure>,
}

/// A domain beside the one that measures.
#[derive(Debug)]
pub(crate) struct Neighbour {
    /// Its program.
    pub(crate) guest: String,
    /// Words for it.
    pub(crate) words: String,
    /// Its memory in MiB.
    pub(crate) memory: u64,
}

/// One figure.
#[derive(Debug)]
pub(crate) struct Figure {
    /// Its name.
    pub(crate) name: String,
    /// What is good.
    pub(crate) goal: Option<Goal>,
    /// Xen's figure, where it is told and not measured.
    pub(crate) stated_xen: Option<f64>,
}

impl PlannedRun {
    /// Whether Xen runs it too.
    pub(crate) fn runs_on_xen(&self) -> bool {
        self.figures
            .iter()
            .any(|figure| figure.stated_xen.is_none())
    }
}

impl Plan {
    /// Reads the file, which is part of the program.
    pub(crate) fn read(arch: Arch) -> Result<Plan> {
        let text = match arch {
            Arch::Aarch64 => AARCH64,
            Arch::X86_64 => X86_64,
            Arch::Riscv64 => RISCV64,
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
        pv_user_space_of_xen: file["pv_user_space_of_xen"].as_f64(),
        image_bytes: file["image_bytes"].as_f64()?,
        idle_domain_bytes: file["idle_domain_bytes"].as_f64(),
    })
}

fn parse_run(run: &Value) -> Option<PlannedRun> {
    let text = |name: &str| run[name].as_str().map(str::to_string);
    Some(PlannedRun {
        guest: text("guest")?,
        words: text("words")?,
        runs_in: match run["emulator"].as_str() {
            None => Emulator::Qemu,
            Some("bochs") => Emulator::Bochs,
            Some(_) => return None,
        },
        cpus: u32::try_from(run["cpus"].as_u64()?).ok()?,
        xen_words: text("xen_words")?,
        beside: optional(&run["beside"], parse_neighbour)?,
        mode: text("mode")?,
        unit: text("unit")?,
        figures: list(&run["figures"], parse_figure)?,
    })
}

fn parse_neighbour(domain: &Value) -> Option<Neighbour> {
    Some(Neighbour {
        guest: domain["guest"].as_str()?.to_string(),
        words: domain["words"].as_str()?.to_string(),
        memory: domain["memory"].as_u64()?,
    })
}

/// `goal` is a part of Xen's figure, `most` a number by itself.
fn parse_figure(figure: &Value) -> Option<Figure> {
    let part = optional(&figure["goal"], Value::as_f64)?;
    let most = optional(&figure["most"], Value::as_f64)?;
    Some(Figure {
        name: figure["name"].as_str()?.to_string(),
        goal: match (part, most) {
            (None, None) => None,
            (Some(part), None) => Some(Goal::OfXen(part)),
            (None, Some(most)) => Some(Goal::AtMost(most)),
            (Some(part), Some(most)) => Some(Goal::AtMostAndOfXen(most, part)),
        },
        stated_xen: optional(&figure["stated_xen"], Value::as_f64)?,
    })
}

/// What is not there is fine, what is there and of a wrong kind is not.
fn optional<T>(value: &Value, item: impl Fn(&Value) -> Option<T>) -> Option<Option<T>> {
    match value.is_null() {
        true => Some(None),
        false => item(value).map(Some),
    }
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
            Some(("xen_version".into(), Some(Goal::OfXen(0.4))))
        );
        assert!(figures.any(|figure| figure.goal.is_none()));
        assert!(!Plan::read(Arch::X86_64).unwrap().runs.is_empty());
        assert!(!Plan::read(Arch::Riscv64).unwrap().runs.is_empty());
    }

    #[test]
    fn a_figure_can_have_two_goals_and_a_told_measure() {
        let figure = |text: &str| parse_figure(&serde_json::from_str(text).unwrap());
        let both = figure(r#"{"name": "a", "goal": 0.5, "most": 700}"#).unwrap();
        assert_eq!(both.goal, Some(Goal::AtMostAndOfXen(700.0, 0.5)));
        let told = figure(r#"{"name": "a", "goal": 0.1, "stated_xen": 65181}"#).unwrap();
        assert_eq!(told.stated_xen, Some(65181.0));
        assert!(figure(r#"{"name": "a", "goal": "much"}"#).is_none());
    }
}
