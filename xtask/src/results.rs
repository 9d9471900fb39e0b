//! What a test guest says on its console.
//!
//! One line per case, `[guest] ok NAME`, `[guest] FAIL NAME: why`, `[guest] value NAME NUMBER`, and at the end
//! `[guest] done P passed F failed` with two numbers in it. Other lines, the hypervisor's own among them, do not count.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};

const MARK: &str = "[guest] ";
/// How a guest's last line begins.
pub(crate) const END: &str = "[guest] done ";

/// How one case went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// As expected.
    Ok,
    /// Not as expected, and why.
    Fail(String),
}

/// All that one run of a guest said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Results {
    /// The cases by name.
    pub(crate) cases: BTreeMap<String, Outcome>,
    /// Numbers by name, in the order they came.
    pub(crate) values: Vec<(String, i64)>,
    /// Passed and failed, as the guest counted them.
    pub(crate) done: Option<(u64, u64)>,
}

impl Results {
    /// Reads the results out of a console's text.
    pub(crate) fn parse(text: &str) -> Results {
        let mut results = Results::default();
        // A hypervisor may put its own prefix before a guest's line.
        for line in text
            .lines()
            .filter_map(|line| line.split_once(MARK))
            .map(|(_, rest)| rest.trim_end())
        {
            results.line(line);
        }
        results
    }

    fn line(&mut self, line: &str) {
        let Some((word, rest)) = line.split_once(' ') else {
            return;
        };
        match word {
            "ok" => drop(self.cases.insert(rest.to_string(), Outcome::Ok)),
            "FAIL" => {
                let (name, why) = rest.split_once(": ").unwrap_or((rest, ""));
                self.cases
                    .insert(name.to_string(), Outcome::Fail(why.to_string()));
            }
            "value" => {
                if let Some((name, number)) = rest.rsplit_once(' ') {
                    self.values
                        .extend(number.parse().ok().map(|number| (name.to_string(), number)));
                }
            }
            "done" => {
                let mut numbers = rest.split_whitespace().filter_map(|word| word.parse().ok());
                self.done = numbers.next().zip(numbers.next());
            }
            _ => {}
        }
    }

    /// The guest came to its end, and no line of it was lost.
    pub(crate) fn check_complete(&self) -> Result<()> {
        let (mut passed, mut failed) = (0, 0);
        for outcome in self.cases.values() {
            match outcome {
                Outcome::Ok => passed += 1,
                Outcome::Fail(_) => failed += 1,
            }
        }
        let Some(done) = self.done else {
            anyhow::bail!("the guest did not come to its end (no \"{MARK}done\" line)")
        };
        ensure!(
            done == (passed, failed),
            "the guest counted {done:?} passed and failed, its lines say {:?}",
            (passed, failed)
        );
        Ok(())
    }

    /// The last number of this name.
    pub(crate) fn value(&self, name: &str) -> Option<i64> {
        self.values
            .iter()
            .rev()
            .find(|(found, _)| found == name)
            .map(|(_, number)| *number)
    }
}

/// Where two runs of the same guest differ, one line each; `listed` names differences that are known and explained.
pub(crate) fn differences(
    ours: &Results,
    theirs: &Results,
    listed: &dyn Fn(&str) -> bool,
) -> Vec<String> {
    let mut names: Vec<&String> = ours.cases.keys().chain(theirs.cases.keys()).collect();
    names.sort();
    names.dedup();
    let mut found = Vec::new();
    for name in names {
        let (here, there) = (ours.cases.get(name), theirs.cases.get(name));
        let same = matches!((here, there), (Some(Outcome::Ok), Some(Outcome::Ok)));
        match (same, listed(name)) {
            (false, false) => found.push(format!(
                "{name}: Xenolith: {}; Xen: {}",
                said(here),
                said(there)
            )),
            (true, true) => found.push(format!(
                "{name}: listed in docs/compatibility.md, but there is no difference"
            )),
            _ => {}
        }
    }
    found
}

fn said(outcome: Option<&Outcome>) -> String {
    match outcome {
        None => "no such line".to_string(),
        Some(Outcome::Ok) => "ok".to_string(),
        Some(Outcome::Fail(why)) => format!("FAIL ({why})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "(XEN) noise\n[guest] begin abi aarch64\n[guest] ok event: send wakes\n\
        (XEN) d0: [guest] FAIL grants.map: got -1, expected 0\n[guest] value xen_version 423\n\
        [guest] value empty\n[guest] done P 1 F 1\n";

    #[test]
    fn result_lines_are_read_out_of_a_console() {
        let results = Results::parse(TEXT);
        assert_eq!(results.cases.len(), 2);
        let failed = Outcome::Fail("got -1, expected 0".into());
        assert_eq!(results.cases.get("grants.map"), Some(&failed));
        assert_eq!(results.value("xen_version"), Some(423));
        results.check_complete().unwrap();
    }

    #[test]
    fn both_spellings_of_the_end_are_read() {
        assert_eq!(
            Results::parse("[guest] done 39 passed 2 failed\n").done,
            Some((39, 2))
        );
        assert_eq!(
            Results::parse("[guest] done P 39 F 2\n").done,
            Some((39, 2))
        );
    }

    #[test]
    fn a_guest_that_stopped_or_lost_a_line_is_not_complete() {
        assert!(Results::parse("[guest] ok a\n").check_complete().is_err());
        assert!(
            Results::parse("[guest] ok a\n[guest] done P 2 F 0\n")
                .check_complete()
                .is_err()
        );
    }

    #[test]
    fn a_difference_must_be_listed_and_a_listed_one_must_be_there() {
        let ours = Results::parse("[guest] ok a\n[guest] FAIL b: x\n[guest] ok c\n");
        let theirs = Results::parse("[guest] ok a\n[guest] ok b\n[guest] ok c\n");
        assert_eq!(
            differences(&ours, &theirs, &|_| false),
            ["b: Xenolith: FAIL (x); Xen: ok"]
        );
        assert_eq!(
            differences(&ours, &theirs, &|name| name == "b"),
            Vec::<String>::new()
        );
        assert_eq!(differences(&ours, &theirs, &|name| name != "a").len(), 1);
    }
}
