//! The ways to print.

use core::{
    fmt::{self, Write as _},
    sync::atomic::Ordering::Relaxed,
};

use arrayvec::ArrayVec;
use xenolith_hal::Hal;

use super::Console;

/// What stands before the hypervisor's own lines, as people who know Xen expect it.
const PREFIX: &str = "(XEN) ";

/// Bytes handed to the machine at once.
const CHUNK: usize = 256;

impl<H: Hal> Console<H> {
    /// Prints bytes as they are; a line feed alone also returns the carriage.
    pub fn write_raw(&self, hal: &H, text: &[u8]) {
        let mut out = ArrayVec::<u8, CHUNK>::new();
        let mut last = 0;
        for byte in text {
            if out.remaining_capacity() < 2 {
                hal.console_write(&out);
                out.clear();
            }
            if *byte == b'\n' && last != b'\r' {
                out.push(b'\r');
            }
            out.push(*byte);
            last = *byte;
        }
        if last != 0 {
            self.in_line.store(last != b'\n', Relaxed);
        }
        hal.console_write(&out);
    }

    /// Prints a whole line, which ends in a line feed, on a line of its own, and keeps it.
    pub(super) fn write_line(&self, hal: &H, line: &[u8]) {
        if self.in_line.load(Relaxed) {
            self.write_raw(hal, b"\n");
        }
        self.ring.lock().push(line);
        self.write_raw(hal, line);
    }

    /// Prints a message of the hypervisor if its level is wanted.
    pub fn print_record(&self, hal: &H, record: &log::Record<'_>) {
        if self.levels.print(record.target(), record.level()) {
            self.print(hal, *record.args());
        }
    }

    /// Prints a message of the hypervisor, whatever the levels say.
    pub fn print(&self, hal: &H, text: fmt::Arguments<'_>) {
        let mut out = LineWriter::new(self, hal);
        let _ = out.write_fmt(text);
    }

    /// Keeps text that was printed before this console was there.
    pub fn record(&self, text: &[u8]) {
        self.ring.lock().push(text);
    }

    /// Reads what was printed, see [`Ring::read`](super::Ring::read).
    pub fn read_ring(&self, from: u64, buffer: &mut [u8]) -> (u64, usize) {
        self.ring.lock().read(from, buffer)
    }

    /// Forgets what was printed.
    pub fn clear_ring(&self) {
        self.ring.lock().clear();
    }
}

/// Text printed through this appears as lines of the hypervisor. The last line ends when the writer is dropped.
pub struct LineWriter<'a, H: Hal> {
    console: &'a Console<H>,
    hal: &'a H,
    line: ArrayVec<u8, CHUNK>,
}

impl<'a, H: Hal> LineWriter<'a, H> {
    /// A writer on this console.
    pub fn new(console: &'a Console<H>, hal: &'a H) -> Self {
        Self {
            console,
            hal,
            line: ArrayVec::new(),
        }
    }

    fn end_line(&mut self) {
        self.line.push(b'\n');
        self.console.write_line(self.hal, &self.line);
        self.line.clear();
    }
}

impl<H: Hal> fmt::Write for LineWriter<'_, H> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if self.line.is_empty() {
                self.line.extend(PREFIX.bytes());
            }
            // A line that is too long goes on in the next one.
            if byte == b'\n' || self.line.remaining_capacity() == 1 {
                self.end_line();
                if byte == b'\n' {
                    continue;
                }
                self.line.extend(PREFIX.bytes());
            }
            self.line.push(byte);
        }
        Ok(())
    }
}

impl<H: Hal> Drop for LineWriter<'_, H> {
    fn drop(&mut self) {
        if !self.line.is_empty() {
            self.end_line();
        }
    }
}
