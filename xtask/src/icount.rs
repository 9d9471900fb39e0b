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

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Count {
    /// Instructions.
    Executed,
    /// The same and the time, an instruction for each nanosecond, that the machine sleeps. Of x86-64, whose power-management
    /// timer tells it.
    ExecutedAndAsleep,
}

/// Runs the machine and returns the count.
pub(crate) fn until_power_off(
    mut machine: Machine,
    name: &str,
    what: Count,
    limit: Duration,
) -> Result<u64> {
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
    let counted = count(&socket, what, limit);
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
fn count(socket: &Path, what: Count, limit: Duration) -> Result<u64> {
    let mut qmp = Qmp::connect(socket, limit)?;
    qmp.ask("qmp_capabilities")?;
    // Events that came before an answer are not kept, so the state itself is asked for.
    while qmp.ask("query-status")?["status"] != "shutdown" {
        qmp.pause()?;
    }
    let count = qmp.ask("query-replay")?["icount"]
        .as_u64()
        .context("QEMU told no count of instructions")?;
    let count = match what {
        Count::Executed => count,
        Count::ExecutedAndAsleep => {
            let told = qmp.person("i /w 0x608")?;
            let ticks = told.as_str().and_then(port_value);
            with_sleep(count, ticks.context("QEMU told no time")?)
        }
    };
    qmp.ask("quit")?;
    Ok(count)
}

/// The value in what the monitor says of a port: `portl[0x0608] = 0x00123456`.
fn port_value(told: &str) -> Option<u64> {
    let (_, value) = told.rsplit_once("0x")?;
    u64::from_str_radix(value.trim(), 16).ok()
}

/// The machine's nanoseconds, by the 24 bits of the ACPI timer at the end: at least those in which instructions were
/// executed, and less than a turn of the timer (4.7 s) above them.
fn with_sleep(executed: u64, ticks: u64) -> u64 {
    const HERTZ: u128 = 3_579_545;
    const TURN: u64 = 1 << 24;
    let nanos = |ticks: u64| (u128::from(ticks) * 1_000_000_000 / HERTZ) as u64;
    let begun = (u128::from(executed) * HERTZ / 1_000_000_000) as u64;
    let all = begun + (ticks.wrapping_sub(begun) & (TURN - 1));
    nanos(all).max(executed)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_monitor_tells_a_port() {
        assert_eq!(
            port_value("portl[0x0608] = 0x00a1b2c3\r\n"),
            Some(0xa1_b2c3)
        );
        assert_eq!(port_value("nothing"), None);
    }

    #[test]
    fn sleep_is_what_the_timer_ran_on() {
        let ticks = |nanos: u64| (u128::from(nanos) * 3_579_545 / 1_000_000_000) as u64 & 0xff_ffff;
        for (executed, asleep) in [
            (1_000_000, 0),
            (4_600_000_000, 200_000_000),
            (9_000_000_000, 3),
        ] {
            let all = executed + asleep;
            assert!(with_sleep(executed, ticks(all)).abs_diff(all) < 300);
        }
    }
}
