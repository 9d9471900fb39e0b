//! A machine at the user's own terminal.

use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::process;

/// Runs the emulator on the terminal until it ends. The terminal is put back as it was even if the emulator is killed.
pub(crate) fn run(qemu: &mut Command, limit: Option<Duration>) -> Result<ExitStatus> {
    let _settings = Settings::save();
    let mut child = qemu.spawn().with_context(|| {
        format!(
            "cannot start {}: run `cargo xtask setup`",
            process::shown(qemu)
        )
    })?;
    let started = Instant::now();
    let Some(limit) = limit else {
        return child.wait().context("cannot wait for the emulator");
    };
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if started.elapsed() > limit {
            child.kill()?;
            child.wait()?;
            bail!(
                "stopped after {} s, the limit given by --timeout",
                limit.as_secs()
            );
        }
        thread::sleep(Duration::from_millis(100));
    }
}

/// The terminal's settings, restored when dropped.
struct Settings(Option<String>);

impl Settings {
    fn save() -> Settings {
        let saved = Command::new("stty")
            .arg("-g")
            .stdin(Stdio::inherit())
            .output();
        let saved = saved.ok().filter(|output| output.status.success());
        Settings(saved.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_string()))
    }
}

impl Drop for Settings {
    fn drop(&mut self) {
        if let Some(settings) = &self.0 {
            let _ = Command::new("stty")
                .arg(settings)
                .stdin(Stdio::inherit())
                .status();
        }
    }
}
