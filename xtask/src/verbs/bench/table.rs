//! The figures as rows, as text and as JSON.

use serde_json::{Value, json};

use crate::arch::Arch;

/// One figure on both hypervisors. Less is better for all of them.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Row {
    /// The operation.
    pub(crate) name: String,
    arch: Arch,
    /// How it runs.
    pub(crate) mode: String,
    unit: String,
    /// On Xenolith, if it could be measured.
    pub(crate) xenolith: Option<f64>,
    /// On Debian's Xen, if it could be measured.
    pub(crate) xen: Option<f64>,
    /// On the machine without a hypervisor, if that is the measure.
    bare: Option<f64>,
    /// Xen's figure is told, and was not measured here.
    told: bool,
    /// What is good.
    goal: Option<Goal>,
}

/// The most that Xenolith's figure may be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Goal {
    /// So many times Xen's figure.
    OfXen(f64),
    /// So many times the bare machine's figure.
    OfBare(f64),
    /// So much, whatever the others have.
    AtMost(f64),
    /// So much, and so many times Xen's figure where Xen has one.
    AtMostAndOfXen(f64, f64),
}

impl Row {
    /// A figure that is not measured yet.
    pub(crate) fn new(name: &str, arch: Arch, mode: &str, unit: &str, goal: Option<Goal>) -> Row {
        Row {
            name: name.to_string(),
            arch,
            mode: mode.to_string(),
            unit: unit.to_string(),
            xenolith: None,
            xen: None,
            bare: None,
            told: false,
            goal,
        }
    }

    /// The same with what was measured.
    pub(crate) fn measured(mut self, xenolith: Option<i64>, xen: Option<i64>) -> Row {
        self.xenolith = number(xenolith);
        self.xen = number(xen);
        self
    }

    /// The same with a figure of Xen that nobody measured here.
    pub(crate) fn beside_told(mut self, xen: f64) -> Row {
        (self.xen, self.told) = (Some(xen), true);
        self
    }

    /// The same with what the bare machine takes.
    pub(crate) fn beside_bare(mut self, bare: Option<i64>) -> Row {
        self.bare = number(bare);
        self
    }

    /// Whether the ratio is one to the bare machine.
    pub(crate) fn is_of_bare(&self) -> bool {
        matches!(self.goal, Some(Goal::OfBare(_)))
    }

    /// Xenolith's figure as a part of Xen's, or of the bare machine's where that is the measure.
    pub(crate) fn ratio(&self) -> Option<f64> {
        let whole = if self.is_of_bare() {
            self.bare
        } else {
            self.xen
        };
        Some(self.xenolith? / whole.filter(|whole| *whole > 0.0)?)
    }

    /// The largest ratio that is good, where one can be told.
    pub(crate) fn goal_ratio(&self) -> Option<f64> {
        let of_xen = |most: f64| self.xen.filter(|xen| *xen > 0.0).map(|xen| most / xen);
        match self.goal? {
            Goal::OfXen(goal) | Goal::OfBare(goal) => Some(goal),
            Goal::AtMost(most) => of_xen(most),
            Goal::AtMostAndOfXen(most, goal) => {
                Some(of_xen(most).map_or(goal, |part| part.min(goal)))
            }
        }
    }

    /// Whether the goal is met, where there is a goal and it can be told.
    pub(crate) fn met(&self) -> Option<bool> {
        match self.goal? {
            Goal::AtMost(most) => Some(self.xenolith? <= most),
            Goal::OfXen(goal) | Goal::OfBare(goal) => Some(self.ratio()? <= goal),
            Goal::AtMostAndOfXen(most, goal) => {
                Some(self.xenolith? <= most && self.ratio().is_none_or(|ratio| ratio <= goal))
            }
        }
    }

    /// Whether there is a goal and it is not seen to be met.
    pub(crate) fn is_missed(&self) -> bool {
        self.goal.is_some() && self.met() != Some(true)
    }

    fn goal_text(&self) -> String {
        match self.goal {
            None => "-".into(),
            Some(Goal::OfXen(goal)) => format!("{goal:.2} Xen"),
            Some(Goal::OfBare(goal)) => format!("{goal:.2} bare"),
            Some(Goal::AtMost(most)) => format!("{most:.0}"),
            Some(Goal::AtMostAndOfXen(most, goal)) => format!("{most:.0}, {goal:.2} Xen"),
        }
    }
}

fn number(value: Option<i64>) -> Option<f64> {
    value.map(|value| value as f64)
}

/// The table that is printed.
pub(crate) fn text(rows: &[Row]) -> String {
    let mut text = format!(
        "{:27} {:12} {:>11} {:>11} {:>11} {:>6} {:>15}  {:3}  unit\n",
        "name", "mode", "Xenolith", "Xen", "bare", "ratio", "goal", "met"
    );
    let number = |value: Option<f64>| value.map_or("-".to_string(), |value| format!("{value:.0}"));
    for row in rows {
        let met = match (row.goal, row.met()) {
            (None, _) => "",
            (_, Some(true)) => "yes",
            (_, Some(false)) => "NO",
            (_, None) => "?",
        };
        let ratio = row
            .ratio()
            .map_or("-".to_string(), |ratio| format!("{ratio:.3}"));
        text.push_str(&format!(
            "{:27} {:12} {:>11} {:>11} {:>11} {ratio:>6} {:>15}  {met:3}  {}\n",
            row.name,
            row.mode,
            number(row.xenolith),
            number(row.xen) + if row.told { "*" } else { "" },
            number(row.bare),
            row.goal_text(),
            row.unit
        ));
    }
    let with_goal = rows.iter().filter(|row| row.goal.is_some()).count();
    let met = rows.iter().filter(|row| row.met() == Some(true)).count();
    if rows.iter().any(|row| row.told) {
        text += "* told by xtask/data, not measured here\n";
    }
    text + &format!("{met} of {with_goal} goals met\n")
}

/// The list for machines. Where the bare machine is the measure (mode `bare`), `ratio` is the one to it.
pub(crate) fn json(rows: &[Row]) -> String {
    let list: Vec<Value> = rows
        .iter()
        .map(|row| {
            let mut object = json!({
                "name": row.name,
                "arch": row.arch.name(),
                "mode": row.mode,
                "unit": row.unit,
                "xenolith": row.xenolith,
                "xen": row.xen,
                "ratio": row.ratio(),
                "goal": row.goal_ratio(),
            });
            if row.told {
                object["xen_is"] = "told".into();
            }
            object
        })
        .collect();
    format!("{:#}\n", Value::Array(list))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(goal: Option<Goal>) -> Row {
        Row::new("xen_version", Arch::Aarch64, "dom0", "instructions", goal)
    }

    #[test]
    fn a_goal_is_met_when_the_figure_is_not_above_it() {
        let of_xen = row(Some(Goal::OfXen(0.4)));
        let met = |xenolith, xen| of_xen.clone().measured(Some(xenolith), xen).met();
        assert_eq!(met(40, Some(100)), Some(true));
        assert_eq!(met(41, Some(100)), Some(false));
        assert_eq!(met(41, None), None);
    }

    #[test]
    fn a_limit_needs_nothing_to_compare_with() {
        let limited = row(Some(Goal::AtMost(20.0)));
        let alone = limited.clone().measured(Some(10), None);
        assert_eq!((alone.met(), alone.goal_ratio()), (Some(true), None));
        let beside = limited.measured(Some(10), Some(100));
        assert_eq!(beside.goal_ratio(), Some(0.2));
    }

    #[test]
    fn two_goals_are_met_together_and_the_limit_alone_where_xen_has_no_figure() {
        let both = row(Some(Goal::AtMostAndOfXen(700.0, 0.5)));
        let met = |xenolith, xen| both.clone().measured(Some(xenolith), xen).met();
        assert_eq!(met(700, Some(1400)), Some(true));
        assert_eq!(met(700, Some(1399)), Some(false));
        assert_eq!(met(701, Some(9000)), Some(false));
        assert_eq!(met(700, None), Some(true));
        assert_eq!(both.clone().measured(None, Some(1)).met(), None);
        assert_eq!(both.measured(None, Some(2800)).goal_ratio(), Some(0.25));
    }

    #[test]
    fn what_is_told_of_xen_is_marked() {
        let row = row(Some(Goal::OfXen(0.1))).measured(Some(6), None);
        let row = row.beside_told(65.0);
        assert_eq!(row.met(), Some(true));
        assert!(text(std::slice::from_ref(&row)).contains(" 65* "));
        let list: Value = serde_json::from_str(&json(&[row])).unwrap();
        assert_eq!(list[0]["xen_is"], "told");
    }

    #[test]
    fn the_bare_machine_can_be_the_measure() {
        let row = row(Some(Goal::OfBare(1.05)))
            .measured(Some(102), Some(120))
            .beside_bare(Some(100));
        assert_eq!((row.ratio(), row.met()), (Some(1.02), Some(true)));
        assert!(text(&[row]).contains("1.05 bare  yes"));
    }

    #[test]
    fn what_has_a_goal_and_was_not_measured_is_missed() {
        assert!(row(Some(Goal::OfXen(0.4))).is_missed());
        assert!(!row(None).is_missed());
    }

    #[test]
    fn what_could_not_be_measured_is_null() {
        let text = json(&[row(None).measured(Some(1), None)]);
        let list: Value = serde_json::from_str(&text).unwrap();
        assert!(
            list[0]["xen"].is_null() && list[0]["ratio"].is_null() && list[0]["goal"].is_null()
        );
        let keys: Vec<&String> = list[0].as_object().unwrap().keys().collect();
        assert_eq!(keys.len(), 8);
    }
}
