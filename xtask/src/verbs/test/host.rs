//! The host's tests: `cargo test` on the default members of the workspace, its lines read one by one.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::paths;
use crate::verbs::test::Tally;

/// Runs cargo's tests and counts each one.
pub(crate) fn run(tally: &Tally, filter: Option<&str>) -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    // The shell joins the two streams in order: cargo names the program on one, the program its tests on the other.
    let mut command = Command::new("sh");
    command
        .args(["-c", "exec \"$@\" 2>&1", "sh"])
        .arg(cargo)
        .args(["test", "--no-fail-fast", "--color", "never"]);
    command
        .current_dir(paths::root())
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    eprintln!("building and running the host's tests");
    let mut child = command.spawn().context("cannot start cargo")?;
    let output = child.stdout.take().context("cargo has no output")?;
    let mut reader = Reader::default();
    let mut whole = Vec::new();
    for line in BufReader::new(output).lines().map_while(Result::ok) {
        if let Some(Verdict { name, passed }) = reader.line(&line)
            && filter.is_none_or(|text| name.contains(text))
        {
            if passed {
                tally.passed(&name);
            } else {
                tally.failed(&name, "what it printed stands below");
            }
        }
        whole.push(line);
    }
    let status = child.wait()?;
    reader
        .failures
        .iter()
        .for_each(|line| println!("    {line}"));
    if !status.success() && reader.failed == 0 {
        let tail = whole
            .get(whole.len().saturating_sub(40)..)
            .unwrap_or_default();
        tally.failed("host/build", &tail.join("\n"));
    }
    Ok(())
}

/// How one test went.
#[derive(Debug, PartialEq, Eq)]
struct Verdict {
    name: String,
    passed: bool,
}

/// Reads the output of `cargo test`.
#[derive(Debug, Default)]
struct Reader {
    program: String,
    in_failures: bool,
    failures: Vec<String>,
    failed: u32,
}

impl Reader {
    fn line(&mut self, line: &str) -> Option<Verdict> {
        if let Some(program) = program(line) {
            self.program = program;
            self.in_failures = false;
        }
        match line {
            "failures:" => self.in_failures = true,
            _ if line.starts_with("test result:") => self.in_failures = false,
            _ if self.in_failures => self.failures.push(line.to_string()),
            _ => {}
        }
        let (name, verdict) = line.strip_prefix("test ")?.rsplit_once(" ... ")?;
        let passed = match verdict.split_whitespace().next()? {
            "ok" => true,
            "FAILED" => false,
            _ => return None,
        };
        self.failed += u32::from(!passed);
        Some(Verdict {
            name: format!("host/{}::{name}", self.program),
            passed,
        })
    }
}

/// The program whose tests follow: `Running unittests src/lib.rs (target/debug/deps/NAME-HASH)` or `Doc-tests NAME`.
fn program(line: &str) -> Option<String> {
    let line = line.trim_start();
    if let Some(name) = line.strip_prefix("Doc-tests ") {
        return Some(format!("{name} (documentation)"));
    }
    let file = line
        .strip_prefix("Running ")?
        .rsplit_once('(')?
        .1
        .trim_end_matches(')');
    let name = file.rsplit('/').next()?;
    Some(
        name.rsplit_once('-')
            .map_or(name, |(name, _hash)| name)
            .to_string(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_of_a_test_program_is_one_verdict() {
        let text = "     Running unittests src/lib.rs (target/debug/deps/xenolith_core-0123abc)\n\nrunning 3 tests\n\
                    test events::a_masked_port_stays_pending ... ok\ntest slow ... ignored\ntest grants::b ... FAILED\n\n\
                    failures:\n\n---- grants::b stdout ----\npanicked\n\ntest result: FAILED. 1 passed; 1 failed\n";
        let mut reader = Reader::default();
        let verdicts: Vec<Verdict> = text.lines().filter_map(|line| reader.line(line)).collect();
        assert_eq!(
            verdicts,
            [
                Verdict {
                    name: "host/xenolith_core::events::a_masked_port_stays_pending".into(),
                    passed: true
                },
                Verdict {
                    name: "host/xenolith_core::grants::b".into(),
                    passed: false
                },
            ]
        );
        assert!(reader.failures.contains(&"panicked".to_string()));
    }
}
