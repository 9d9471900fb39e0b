//! apt with a progress bar: its status lines (`APT::Status-Fd`) move the bar, its output goes to a log file.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};

use crate::debian::install;
use crate::{paths, process};

/// A bar in the one style of all of xtask; invisible where standard error is no terminal.
pub(crate) fn bar(what: &str) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg:34} {wide_bar} {percent:>3} %")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::new(1000)
        .with_style(style)
        .with_message(what.to_string());
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// Runs one apt command to its end.
pub(crate) fn run_apt(apt: Command, what: &str) -> Result<()> {
    let log = install::log();
    paths::make_dir(&paths::logs())?;
    // apt writes its status to descriptor 3, which the shell points at our pipe.
    let mut command = Command::new("sh");
    command
        .args([
            "-c",
            "log=$1; shift; exec \"$@\" -o APT::Status-Fd=3 3>&1 >\"$log\" 2>&1",
            "sh",
        ])
        .arg(&log);
    command.arg(apt.get_program()).args(apt.get_args());
    command.envs(
        apt.get_envs()
            .filter_map(|(key, value)| Some((key, value?))),
    );
    if let Some(folder) = apt.get_current_dir() {
        command.current_dir(folder);
    }
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {}", process::shown(&apt)))?;
    let bar = bar(what);
    if let Some(status) = child.stdout.take() {
        for line in BufReader::new(status).lines().map_while(Result::ok) {
            if let Some(permille) = permille(&line) {
                bar.set_position(permille);
            }
        }
    }
    let status = child.wait()?;
    bar.finish_and_clear();
    if !status.success() {
        bail!(
            "{} ended with {status}:\n{}",
            process::shown(&apt),
            tail(&log)
        );
    }
    eprintln!("{what}: done");
    Ok(())
}

/// The progress that one status line tells: `dlstatus:N:PERCENT:…` or `pmstatus:PACKAGE:PERCENT:…`.
fn permille(line: &str) -> Option<u64> {
    let rest = line
        .strip_prefix("dlstatus:")
        .or_else(|| line.strip_prefix("pmstatus:"))?;
    // A package's name may hold a colon before its architecture, so the percentage is the first field that is a number
    // with a fraction.
    let percent: f64 = rest
        .split(':')
        .find(|field| field.contains('.'))
        .and_then(|field| field.parse().ok())?;
    Some((percent.clamp(0.0, 100.0) * 10.0) as u64)
}

fn tail(log: &std::path::Path) -> String {
    let Ok(mut file) = File::open(log) else {
        return String::new();
    };
    let mut text = String::new();
    let _ = std::io::Read::read_to_string(&mut file, &mut text);
    let errors: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with("E:") || line.starts_with("W:"))
        .collect();
    let lines: Vec<&str> = if errors.is_empty() {
        text.lines().collect()
    } else {
        errors
    };
    let from = lines.len().saturating_sub(12);
    let _ = fs::metadata(log);
    lines.get(from..).unwrap_or_default().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_lines_of_apt_and_dpkg_give_a_position() {
        assert_eq!(
            permille("dlstatus:3:92.9057:Retrieving file 3 of 3"),
            Some(929)
        );
        assert_eq!(permille("pmstatus:libc6:amd64:25.5:Unpacking"), Some(255));
        assert_eq!(permille("Reading package lists..."), None);
    }
}
