//! How many instructions a machine executes from power-on until it powers itself off.
//!
//! QEMU tells the count only while it records a run for replay, so the run is recorded, stopped at the power-off, and
//! asked over QMP. The record itself is thrown away.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::console::{Console, Echo};
use crate::emulator::{Machine, Terminal};
use crate::paths;

/// Runs the machine and returns the count.
pub(crate) fn until_power_off(mut machine: Machine, name: &str, limit: Duration) -> Result<u64> {
    // The path of a socket must be short, and that of the tree may not be.
    let socket = std::env::temp_dir().join(format!("xtask-{}-{name}.qmp", std::process::id()));
    let record = paths::work().join(format!("{name}.record"));
    paths::make_dir(&paths::work())?;
    machine.icount = true;
    machine.record = Some(record.clone());
    machine.extra.extend([
        "-no-shutdown".into(),
        "-qmp".into(),
        format!("unix:{},server=on,wait=off", socket.display()),
    ]);
    let mut qemu = machine.command(Terminal::Pipes, name)?;
    let mut console = Console::start(&mut qemu, name, limit, Echo::Log)?;
    let counted = count(&socket, limit);
    let ended = if counted.is_ok() {
        console.wait_for_end().map(drop)
    } else {
        Ok(())
    };
    let _ = fs::remove_file(&socket);
    let _ = fs::remove_file(&record);
    let counted =
        counted.with_context(|| format!("{name} did not power off\n{}", console.drain()))?;
    ended?;
    Ok(counted)
}

/// Waits for the power-off, asks for the count and ends the emulator.
fn count(socket: &Path, limit: Duration) -> Result<u64> {
    let mut qmp = Qmp::connect(socket, limit)?;
    qmp.ask("qmp_capabilities")?;
    // Events that came before an answer are not kept, so the state itself is asked for.
    while qmp.ask("query-status")?["status"] != "shutdown" {
        qmp.pause()?;
    }
    let count = qmp.ask("query-replay")?["icount"]
        .as_u64()
        .context("QEMU told no count of instructions")?;
    qmp.ask("quit")?;
    Ok(count)
}

/// A connection to QEMU's monitor for machines.
pub(crate) struct Qmp {
    stream: UnixStream,
    lines: BufReader<UnixStream>,
    deadline: Instant,
}

impl Qmp {
    pub(crate) fn connect(socket: &Path, limit: Duration) -> Result<Qmp> {
        let deadline = Instant::now() + limit;
        let stream = loop {
            match UnixStream::connect(socket) {
                Ok(stream) => break stream,
                // QEMU makes the socket a moment after it has started.
                Err(_) if Instant::now() < deadline => thread::sleep(Duration::from_millis(50)),
                Err(error) => return Err(error).context("QEMU does not answer"),
            }
        };
        let lines = BufReader::new(stream.try_clone()?);
        let mut qmp = Qmp {
            stream,
            lines,
            deadline,
        };
        qmp.line()?;
        Ok(qmp)
    }

    pub(crate) fn ask(&mut self, command: &str) -> Result<Value> {
        self.send(command, &json!({ "execute": command }))
    }

    /// Gives a command of the monitor for persons.
    pub(crate) fn person(&mut self, line: &str) -> Result<Value> {
        let words = json!({ "command-line": line });
        let command = json!({ "execute": "human-monitor-command", "arguments": words });
        self.send(line, &command)
    }

    fn send(&mut self, command: &str, line: &Value) -> Result<Value> {
        // In one piece: QEMU obeys as soon as the braces close, and after "quit" nobody takes the end of a line.
        let line = format!("{line}\n");
        self.stream
            .write_all(line.as_bytes())
            .with_context(|| format!("QEMU ended before it was asked to {command}"))?;
        loop {
            let mut answer = self.line()?;
            if let Some(error) = answer.get("error") {
                bail!("QEMU refused {command}: {error}");
            }
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
        }
    }

    fn pause(&self) -> Result<()> {
        if Instant::now() > self.deadline {
            bail!("the time limit is over");
        }
        thread::sleep(Duration::from_millis(100));
        Ok(())
    }

    fn line(&mut self) -> Result<Value> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            bail!("the time limit is over");
        }
        self.lines.get_ref().set_read_timeout(Some(left))?;
        let mut line = String::new();
        if self
            .lines
            .read_line(&mut line)
            .context("the time limit is over")?
            == 0
        {
            bail!("the emulator ended");
        }
        serde_json::from_str(&line).context("QEMU's answer is not JSON")
    }
}
