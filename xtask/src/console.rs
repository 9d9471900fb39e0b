//! A machine that runs without a person: its console is kept in a log and can be watched and typed on.
//!
//! Every such machine has a time limit, and none outlives this value: dropping it ends the emulator.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::{paths, process};

/// What to do with the console's text beside keeping it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Echo {
    /// Only the log gets it.
    Log,
    /// Standard output gets it too, as it comes.
    Stdout,
}

/// A running machine.
pub(crate) struct Console {
    child: Child,
    input: Option<ChildStdin>,
    chunks: Receiver<Vec<u8>>,
    filter: Filter,
    text: String,
    /// Up to where `text` was looked at.
    seen: usize,
    log: File,
    log_path: PathBuf,
    echo: Echo,
    started: Instant,
    limit: Duration,
}

impl Console {
    /// Starts the emulator. The log is `target/xtask/logs/NAME.log`.
    pub(crate) fn start(
        qemu: &mut Command,
        name: &str,
        limit: Duration,
        echo: Echo,
    ) -> Result<Console> {
        let log_path = log_path(name);
        paths::make_dir(&paths::logs())?;
        let mut log = File::create(&log_path)
            .with_context(|| format!("cannot write {}", log_path.display()))?;
        writeln!(log, "$ {}", process::shown(qemu))?;
        let said = log.try_clone()?;
        // `timeout` outlives this process if it is killed, so the emulator is ended whatever happens.
        let mut guarded = Command::new("timeout");
        guarded
            .arg("--kill-after=5")
            .arg((limit.as_secs() + 30).to_string())
            .arg(qemu.get_program())
            .args(qemu.get_args());
        let mut child = guarded
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(said)
            .spawn()
            .with_context(|| {
                format!(
                    "cannot start {}: run `cargo xtask setup`",
                    process::shown(qemu)
                )
            })?;
        let input = child.stdin.take();
        let output = child.stdout.take().context("the emulator has no output")?;
        let chunks = read_in_background(output);
        let (started, text) = (Instant::now(), String::new());
        Ok(Console {
            child,
            input,
            chunks,
            filter: Filter::default(),
            text,
            seen: 0,
            log,
            log_path,
            echo,
            started,
            limit,
        })
    }

    /// Types `text` as it is; the Enter key is `\n`.
    pub(crate) fn send(&mut self, text: &str) -> Result<()> {
        let Some(input) = self.input.as_mut() else {
            return Ok(());
        };
        input
            .write_all(text.as_bytes())
            .and_then(|()| input.flush())
            .context("the machine ended while it was typed on")
    }

    /// Moves the keyboard on, past dom0 and each further domain that has a console, until the hypervisor has it.
    pub(crate) fn keys_to_hypervisor(&mut self, domains: usize) -> Result<()> {
        for _ in 0..domains + 2 {
            self.send("\x01\x01\x01")?;
            let said = self.wait_for("three times")?;
            let line = said.lines().last().unwrap_or_default();
            if line.contains("to Xen") {
                return Ok(());
            }
        }
        bail!("the hypervisor did not take the keys\n{}", self.tail())
    }

    /// Waits until `text` appears behind what was looked at before, and returns what came before it.
    pub(crate) fn wait_for(&mut self, text: &str) -> Result<String> {
        loop {
            let fresh = self.text.get(self.seen..).unwrap_or_default();
            if let Some(at) = fresh.find(text) {
                let before = fresh.get(..at).unwrap_or_default().to_string();
                self.seen += at + text.len();
                return Ok(before);
            }
            match self.more()? {
                More::Text => {}
                More::Ended => bail!(
                    "the machine ended before it said \"{text}\"\n{}",
                    self.tail()
                ),
                More::TimeIsUp => bail!(
                    "the machine did not say \"{text}\" within {} s\n{}\n{}",
                    self.limit.as_secs(),
                    self.tail(),
                    self.asked()
                ),
            }
        }
    }

    /// Lets the machine run to its own end and returns how the emulator ended.
    pub(crate) fn wait_for_end(&mut self) -> Result<ExitStatus> {
        loop {
            match self.more()? {
                More::Text => {}
                More::Ended => return self.child.wait().context("cannot wait for the emulator"),
                More::TimeIsUp => bail!(
                    "the machine did not end within {} s\n{}\n{}",
                    self.limit.as_secs(),
                    self.tail(),
                    self.asked()
                ),
            }
        }
    }

    /// Like `wait_for_end`, and it is an error if the emulator reports one.
    pub(crate) fn wait_for_power_off(&mut self) -> Result<()> {
        let status = self.wait_for_end()?;
        if !status.success() {
            bail!("the emulator ended with {status}\n{}", self.tail());
        }
        Ok(())
    }

    /// Everything said so far, without carriage returns and terminal control sequences.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Takes in what was said and not yet read, and returns the last lines.
    pub(crate) fn drain(&mut self) -> String {
        while let Ok(bytes) = self.chunks.try_recv() {
            // The log is for reading afterwards; an error in writing it must not hide the one that is being reported.
            let _ = self.log.write_all(&bytes);
            self.filter.feed(&bytes, &mut self.text);
        }
        self.tail()
    }

    /// Time since the start.
    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// The last lines of the console, and where the rest is.
    pub(crate) fn tail(&self) -> String {
        let lines: Vec<&str> = self.text.lines().collect();
        let from = lines.len().saturating_sub(25);
        let last: Vec<String> = lines
            .get(from..)
            .unwrap_or_default()
            .iter()
            .map(|line| format!("    | {line}"))
            .collect();
        format!(
            "{}\n    (all of it: {})",
            last.join("\n"),
            paths::shown(&self.log_path)
        )
    }

    /// Types the debug keys for CPUs, vCPUs and timers on a machine that stands still, and returns the answers.
    fn asked(&mut self) -> String {
        const ANSWER: Duration = Duration::from_secs(5);
        const TO_HYPERVISOR: &str = "\x01\x01\x01";
        self.started = Instant::now();
        self.limit = ANSWER;
        let from = self.text.len();
        if !self.text.contains("(XEN) ") || self.send(TO_HYPERVISOR).is_err() {
            return String::new();
        }
        // A key that waits for another's answer is read all the same.
        let _ = self.send("qrte");
        while let Ok(More::Text) = self.more() {}
        let answers = self.text.get(from..).unwrap_or_default().lines();
        let answers: Vec<String> = answers.map(|line| format!("    ? {line}")).collect();
        answers.join("\n")
    }

    fn more(&mut self) -> Result<More> {
        let left = self.limit.saturating_sub(self.started.elapsed());
        match self.chunks.recv_timeout(left) {
            Ok(bytes) => {
                self.log.write_all(&bytes)?;
                let from = self.text.len();
                self.filter.feed(&bytes, &mut self.text);
                if self.echo == Echo::Stdout {
                    let mut out = std::io::stdout();
                    let fresh = self.text.get(from..).unwrap_or_default();
                    // A closed standard output is no reason to stop the machine.
                    let _ = out.write_all(fresh.as_bytes()).and_then(|()| out.flush());
                }
                Ok(More::Text)
            }
            Err(RecvTimeoutError::Disconnected) => Ok(More::Ended),
            Err(RecvTimeoutError::Timeout) => Ok(More::TimeIsUp),
        }
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        self.input = None;
        if matches!(self.child.try_wait(), Ok(None)) {
            // SIGTERM to `timeout`, which hands it on; killing `timeout` itself would leave the emulator behind.
            let _ = Command::new("kill")
                .arg(self.child.id().to_string())
                .status();
            let _ = self.child.wait();
        }
    }
}

/// The log file of a run of this name.
pub(crate) fn log_path(name: &str) -> PathBuf {
    paths::logs().join(format!("{name}.log"))
}

/// Removes the log of an earlier run, so that an old one is never taken for a new one.
pub(crate) fn forget_log(path: &Path) {
    let _ = std::fs::remove_file(path);
}

enum More {
    Text,
    Ended,
    TimeIsUp,
}

fn read_in_background(mut output: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (sender, chunks) = mpsc::channel();
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(length) = output.read(&mut buffer) {
            let Some(bytes) = buffer.get(..length).filter(|bytes| !bytes.is_empty()) else {
                break;
            };
            if sender.send(bytes.to_vec()).is_err() {
                break;
            }
        }
    });
    chunks
}

/// Takes carriage returns and terminal control sequences out of a stream that comes in pieces.
#[derive(Debug, Default)]
struct Filter {
    state: FilterState,
}

#[derive(Debug, Default)]
enum FilterState {
    #[default]
    Text,
    Escape,
    Sequence,
}

impl Filter {
    fn feed(&mut self, bytes: &[u8], text: &mut String) {
        for &byte in bytes {
            self.state = match (&self.state, byte) {
                (FilterState::Text, 0x1b) => FilterState::Escape,
                (FilterState::Escape, b'[') => FilterState::Sequence,
                (FilterState::Sequence, 0x40..=0x7e) | (FilterState::Escape, _) => {
                    FilterState::Text
                }
                (FilterState::Sequence, _) => FilterState::Sequence,
                (FilterState::Text, _) => {
                    match byte {
                        b'\n' | b'\t' | 0x20..=0x7e => text.push(char::from(byte)),
                        b'\r' | 0 => {}
                        _ => text.push('\u{fffd}'),
                    }
                    FilterState::Text
                }
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filtered(pieces: &[&[u8]]) -> String {
        let (mut filter, mut text) = (Filter::default(), String::new());
        for piece in pieces {
            filter.feed(piece, &mut text);
        }
        text
    }

    #[test]
    fn control_sequences_are_dropped_even_when_cut_in_two() {
        assert_eq!(
            filtered(&[b"dom0:/# \x1b[6", b"nls\r\n\x1b[1;31mred\x1b[0m"]),
            "dom0:/# ls\nred"
        );
    }

    fn machine(script: &str, seconds: u64) -> Console {
        let mut shell = Command::new("sh");
        shell.args(["-c", script]);
        let name = format!("test-{}-{:?}", std::process::id(), thread::current().id());
        Console::start(&mut shell, &name, Duration::from_secs(seconds), Echo::Log).unwrap()
    }

    #[test]
    fn typed_text_is_answered_and_the_end_is_seen() {
        let mut machine = machine("echo ready; read word; echo got $word; exit 0", 20);
        machine.wait_for("ready\n").unwrap();
        machine.send("pebble\n").unwrap();
        assert_eq!(machine.wait_for("\n").unwrap(), "got pebble");
        machine.wait_for_power_off().unwrap();
        forget_log(&machine.log_path);
    }

    #[test]
    fn a_machine_that_stands_still_is_asked_why() {
        let mut machine = machine("echo '(XEN) here'; head -c 7; sleep 60", 1);
        let error = machine.wait_for("never").unwrap_err().to_string();
        assert!(error.contains("qrte"), "{error}");
        forget_log(&machine.log_path);
    }

    #[test]
    fn a_machine_that_ends_early_is_an_error_that_shows_its_last_words() {
        let mut machine = machine("echo boom; exit 3", 20);
        let error = machine.wait_for("never").unwrap_err().to_string();
        assert!(error.contains("boom"), "{error}");
        assert!(machine.wait_for_power_off().is_err());
        forget_log(&machine.log_path);
    }
}
