//! The differences from Xen that are known and explained: the rows of tables in `docs/compatibility.md` whose first
//! cell is a guest's name and a case's name, as `` `guest-abi: case` ``, or as `` `guest-abi x86_64: case` `` where the
//! difference is one architecture's alone; `svm` and `vmx` in its place stand for one kind of x86-64 machine.

use std::collections::BTreeSet;

use crate::paths;

/// The listed differences.
pub(crate) struct Listed(BTreeSet<String>);

impl Listed {
    /// Reads the page; none are known where there is no page.
    pub(crate) fn read() -> Listed {
        let page = paths::root().join("docs/compatibility.md");
        Listed(rows(&std::fs::read_to_string(page).unwrap_or_default()))
    }

    /// Whether this case of a guest is known to differ everywhere or in one of these places.
    pub(crate) fn holds(&self, guest: &str, places: &[&str], case: &str) -> bool {
        let in_place = |place: &&str| self.0.contains(&format!("{guest} {place}: {case}"));
        self.0.contains(&format!("{guest}: {case}")) || places.iter().any(in_place)
    }
}

fn rows(page: &str) -> BTreeSet<String> {
    let cells = page
        .lines()
        .filter_map(|line| line.trim().strip_prefix('|')?.split('|').next());
    cells
        .filter_map(|cell| cell.trim().strip_prefix('`')?.strip_suffix('`'))
        .filter(|name| name.starts_with("guest-"))
        .map(str::to_string)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_rows_that_name_a_case_count() {
        let page = "| case | Xen | Xenolith | why |\n|---|---|---|---|\n| `guest-abi: version.extra` | a | b | c |\n| `other` | |\n";
        assert_eq!(
            rows(page),
            BTreeSet::from(["guest-abi: version.extra".to_string()])
        );
    }

    #[test]
    fn a_row_for_one_architecture_does_not_excuse_another() {
        let listed = Listed(rows("| `guest-abi x86_64: a` | |\n| `guest-abi: b` | |\n"));
        assert!(listed.holds("guest-abi", &["x86_64", "svm"], "a"));
        assert!(!listed.holds("guest-abi", &["aarch64"], "a"));
        assert!(listed.holds("guest-abi", &["aarch64"], "b"));
        assert!(!listed.holds("guest-traps", &["x86_64"], "a"));
        let listed = Listed(rows("| `guest-abi svm: a` | |\n"));
        assert!(listed.holds("guest-abi", &["x86_64", "svm"], "a"));
        assert!(!listed.holds("guest-abi", &["x86_64", "vmx"], "a"));
    }
}
