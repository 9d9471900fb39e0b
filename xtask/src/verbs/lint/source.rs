//! Rules on source text: no architecture in the neutral crates, no unsafe code without its reason, no long files, no
//! marks of unfinished work.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::paths;

/// Lines of a source file at most.
const LONGEST: usize = 800;
/// A `// SAFETY:` comment stands at most this many lines before the unsafe code that it speaks of.
const REASON_WITHIN: usize = 12;

/// The crates that know no architecture, and what in them is exempt.
const NEUTRAL: &[&str] = &["core", "hal"];
const NOT_NEUTRAL: &str = "hal/sim";
/// Crate roots that must forbid unsafe code.
const WITHOUT_UNSAFE: &[&str] = &["core/src/lib.rs", "core/abi/src/lib.rs"];

/// Checks every Rust source file of the tree.
pub(crate) fn check() -> Result<()> {
    let root = paths::root();
    let mut files = Vec::new();
    collect(&root, &mut files);
    files.sort();
    let mut found = Vec::new();
    for file in files {
        let name = paths::shown(&file);
        let text = String::from_utf8_lossy(&paths::read(&file)?).into_owned();
        found.extend(
            violations(&name, &text)
                .into_iter()
                .map(|violation| format!("    {name}{violation}")),
        );
    }
    for crate_root in WITHOUT_UNSAFE {
        let text = fs::read_to_string(root.join(crate_root)).unwrap_or_default();
        if !text.contains("#![forbid(unsafe_code)]") {
            found.push(format!(
                "    {crate_root}: must have #![forbid(unsafe_code)]"
            ));
        }
    }
    if !found.is_empty() {
        bail!("{}", found.join("\n"));
    }
    Ok(())
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for path in fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
    {
        let name = path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        if name.starts_with('.') || name == "target" {
            continue;
        }
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

fn violations(name: &str, text: &str) -> Vec<String> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    if lines.len() > LONGEST {
        found.push(format!(
            ": {} lines, at most {LONGEST}: one concept per file",
            lines.len()
        ));
    }
    let neutral = NEUTRAL
        .iter()
        .any(|folder| name.starts_with(&format!("{folder}/")))
        && !name.starts_with(NOT_NEUTRAL);
    for (number, line) in lines.iter().enumerate() {
        let mut report = |what: &str| found.push(format!(":{}: {what}", number + 1));
        let code = code_of(line);
        if neutral
            && ["target_arch", "asm!(", "core::arch"]
                .iter()
                .any(|word| code.contains(word))
        {
            report("names an architecture; this crate is neutral");
        }
        if marks().iter().any(|mark| line.contains(mark.as_str())) {
            report("a mark of unfinished work");
        }
        if needs_reason(&code) && !has_reason(&lines, number) {
            report("unsafe code without a `// SAFETY:` comment");
        }
    }
    found
}

/// The line without its comment and without the content of plain string literals.
fn code_of(line: &str) -> String {
    let mut code = String::new();
    let (mut in_text, mut escaped) = (false, false);
    let mut characters = line.chars().peekable();
    while let Some(character) = characters.next() {
        match (in_text, character) {
            (true, _) if escaped => escaped = false,
            (true, '\\') => escaped = true,
            (true, '"') => in_text = false,
            (true, _) => {}
            (false, '"') => in_text = true,
            (false, '/') if characters.peek() == Some(&'/') => break,
            (false, _) => code.push(character),
        }
    }
    code
}

/// The marks, put together here so that this file does not hold them itself.
fn marks() -> [String; 3] {
    [["TO", "DO"], ["FIX", "ME"], ["XX", "X:"]].map(|parts| parts.concat())
}

fn needs_reason(code: &str) -> bool {
    ["unsafe {", "unsafe impl"]
        .iter()
        .any(|word| code.contains(word))
}

/// A reason on the same line, in the comment right above the statement, or above a neighbour that shares it.
fn has_reason(lines: &[&str], number: usize) -> bool {
    let from = number.saturating_sub(REASON_WITHIN);
    lines
        .get(from..=number)
        .unwrap_or_default()
        .iter()
        .any(|line| line.contains("SAFETY:"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neutral_crates_name_no_architecture() {
        assert_eq!(
            violations("core/src/a.rs", "#[cfg(target_arch = \"x\")]\n").len(),
            1
        );
        assert_eq!(
            violations("arch-aarch64/src/a.rs", "#[cfg(target_arch = \"x\")]\n"),
            Vec::<String>::new()
        );
        assert_eq!(
            violations("core/src/a.rs", "// target_arch is not for here\n"),
            Vec::<String>::new()
        );
    }

    #[test]
    fn unsafe_code_needs_its_reason() {
        assert_eq!(
            violations("arch/a.rs", "fn f() {\n    unsafe { g() }\n}\n").len(),
            1
        );
        assert!(
            violations(
                "arch/a.rs",
                "// SAFETY: g has no precondition.\nunsafe { g() }\n"
            )
            .is_empty()
        );
        assert!(violations("arch/a.rs", "let text = \"unsafe { g() }\";\n").is_empty());
    }

    #[test]
    fn unfinished_and_long_files_are_found() {
        assert_eq!(
            violations("a.rs", &format!("// {} later\n", marks()[0])).len(),
            1
        );
        assert_eq!(violations("a.rs", &"\n".repeat(LONGEST + 1)).len(), 1);
    }
}
