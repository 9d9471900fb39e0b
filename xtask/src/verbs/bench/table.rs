//! The figures as rows, as text and as JSON.

use serde_json::{Value, json};

use crate::arch::Arch;

/// One figure on both hypervisors. Less is better for all of them.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Row {
    /// The operation.
    pub(crate) name: String,
    arch: Arch,
    unit: String,
    /// On Xenolith, if it could be measured.
    pub(crate) xenolith: Option<f64>,
    /// On Debian's Xen, if it could be measured.
    pub(crate) xen: Option<f64>,
    /// The largest ratio that is good.
    pub(crate) goal: Option<f64>,
}

impl Row {
    /// A figure whose goal is a ratio to Xen's.
    pub(crate) fn new(
        name: &str,
        arch: Arch,
        unit: &str,
        xenolith: Option<i64>,
        xen: Option<i64>,
        goal: Option<f64>,
    ) -> Row {
        let number = |value: Option<i64>| value.map(|value| value as f64);
        Row {
            name: name.to_string(),
            arch,
            unit: unit.to_string(),
            xenolith: number(xenolith),
            xen: number(xen),
            goal,
        }
    }

    /// The same with a goal that is a number by itself: the ratio follows from it.
    pub(crate) fn with_limit(mut self, limit: f64) -> Row {
        self.goal = self.xen.filter(|xen| *xen > 0.0).map(|xen| limit / xen);
        self
    }

    /// Xenolith's figure as a part of Xen's.
    pub(crate) fn ratio(&self) -> Option<f64> {
        let (xenolith, xen) = (self.xenolith?, self.xen?);
        (xen > 0.0).then(|| xenolith / xen)
    }

    /// Whether the goal is met, where there is a goal and a ratio.
    pub(crate) fn met(&self) -> Option<bool> {
        Some(self.ratio()? <= self.goal?)
    }
}

/// The table that is printed.
pub(crate) fn text(rows: &[Row]) -> String {
    let mut text = format!(
        "{:28} {:>14} {:>14} {:>7} {:>7}  {:3}  unit\n",
        "name", "Xenolith", "Xen", "ratio", "goal", "met"
    );
    let number = |value: Option<f64>| value.map_or("-".to_string(), |value| format!("{value:.0}"));
    let ratio = |value: Option<f64>| value.map_or("-".to_string(), |value| format!("{value:.3}"));
    for row in rows {
        let met = match row.met() {
            Some(true) => "yes",
            Some(false) => "NO",
            None => "-",
        };
        text.push_str(&format!(
            "{:28} {:>14} {:>14} {:>7} {:>7}  {met:3}  {}\n",
            row.name,
            number(row.xenolith),
            number(row.xen),
            ratio(row.ratio()),
            ratio(row.goal),
            row.unit
        ));
    }
    let with_goal = rows.iter().filter(|row| row.goal.is_some()).count();
    let met = rows.iter().filter(|row| row.met() == Some(true)).count();
    text + &format!("{met} of {with_goal} goals met\n")
}

/// The list for machines.
pub(crate) fn json(rows: &[Row]) -> String {
    let list: Vec<Value> = rows
        .iter()
        .map(|row| {
            json!({
                "name": row.name,
                "arch": row.arch.name(),
                "mode": "dom0",
                "unit": row.unit,
                "xenolith": row.xenolith,
                "xen": row.xen,
                "ratio": row.ratio(),
                "goal": row.goal,
            })
        })
        .collect();
    format!("{:#}\n", Value::Array(list))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(xenolith: Option<i64>, xen: Option<i64>, goal: Option<f64>) -> Row {
        Row::new(
            "xen_version",
            Arch::Aarch64,
            "instructions",
            xenolith,
            xen,
            goal,
        )
    }

    #[test]
    fn a_goal_is_met_when_the_ratio_is_not_above_it() {
        assert_eq!(row(Some(40), Some(100), Some(0.4)).met(), Some(true));
        assert_eq!(row(Some(41), Some(100), Some(0.4)).met(), Some(false));
        assert_eq!(row(Some(41), None, Some(0.4)).met(), None);
        assert_eq!(
            row(Some(10), Some(100), None).with_limit(20.0).met(),
            Some(true)
        );
    }

    #[test]
    fn what_could_not_be_measured_is_null() {
        let text = json(&[row(Some(1), None, None)]);
        let list: Value = serde_json::from_str(&text).unwrap();
        assert!(
            list[0]["xen"].is_null() && list[0]["ratio"].is_null() && list[0]["goal"].is_null()
        );
        let keys: Vec<&String> = list[0].as_object().unwrap().keys().collect();
        assert_eq!(keys.len(), 8);
    }
}
