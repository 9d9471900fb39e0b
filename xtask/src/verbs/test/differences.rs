//! The differences from Xen that are known and explained: the rows of tables in `docs/compatibility.md` whose first
//! cell is a guest's name and a case's name, as `` `guest-abi: case` ``.

use std::collections::BTreeSet;

use crate::paths;

/// Reads the page; none are known where there is no page.
pub(crate) fn listed() -> BTreeSet<String> {
    let page = paths::root().join("docs/compatibility.md");
    rows(&std::fs::read_to_string(page).unwrap_or_default())
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
}
