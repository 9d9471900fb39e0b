//! What a domain prints, gathered to lines.
//!
//! Lines appear as `(dN) text`. Characters that could steer a terminal are left out, so a domain cannot pass its text
//! off as another's. How many lines a domain may print is bounded: a burst, and so many a second after that.

use core::fmt::Write as _;

use arrayvec::ArrayVec;
use xenolith_hal::{
    Hal, Nanos,
    sync::{Mutex, Rank},
};

use super::{Console, Focus, level::GUEST};
use crate::{DomId, DomainRef, Hypervisor};

/// A longer line is cut in two.
const LINE: usize = 200;
/// The mark, the line, its end.
const MARKED: usize = LINE + 16;
/// Lines that a domain prints at once at most.
const BURST: u32 = 1024;
/// Lines that it may print a second in the long run.
const PER_SECOND: u64 = 256;

/// What a domain printed and did not end yet.
pub struct GuestConsole(Mutex<Lines>);

impl GuestConsole {
    /// Nothing printed.
    pub const fn new() -> Self {
        Self(Mutex::new(
            Rank::Console,
            Lines {
                text: ArrayVec::new_const(),
                left: BURST,
                refilled: Nanos(0),
                dropped: 0,
            },
        ))
    }
}

impl Default for GuestConsole {
    fn default() -> Self {
        Self::new()
    }
}

#[derive(Debug)]
struct Lines {
    text: ArrayVec<u8, LINE>,
    /// Lines that may be printed before time has to pass.
    left: u32,
    refilled: Nanos,
    dropped: u32,
}

/// A line to print, and how many before it were not.
struct Line {
    text: ArrayVec<u8, LINE>,
    dropped: u32,
}

impl Lines {
    /// Takes one character; gives the line that it ends.
    fn push(&mut self, byte: u8) -> Option<ArrayVec<u8, LINE>> {
        if byte == b'\n' {
            return Some(self.text.take());
        }
        if byte != b'\t' && !(b' '..=b'~').contains(&byte) {
            return None;
        }
        let full = self.text.is_full().then(|| self.text.take());
        self.text.push(byte);
        full
    }

    /// Whether the line may be printed now.
    fn admit(&mut self, text: ArrayVec<u8, LINE>, now: Nanos) -> Option<Line> {
        let earned =
            u128::from(now.since(self.refilled).0) * u128::from(PER_SECOND) / 1_000_000_000;
        if earned > 0 {
            self.left = (u128::from(self.left) + earned).min(BURST.into()) as u32;
            self.refilled = now;
        }
        let Some(left) = self.left.checked_sub(1) else {
            self.dropped = self.dropped.saturating_add(1);
            return None;
        };
        self.left = left;
        Some(Line {
            text,
            dropped: core::mem::take(&mut self.dropped),
        })
    }
}

impl<H: Hal> Console<H> {
    /// A character that a domain printed on its own console device. It appears at once when the domain has the focus,
    /// else with its line.
    pub fn guest_char(&self, hv: &Hypervisor<H>, domain: &DomainRef<H>, byte: u8) {
        if self.focus() == Focus::Domain(domain.id()) {
            self.write_raw(&hv.hal, &[byte]);
        } else {
            self.guest_lines(hv, domain, &[byte]);
        }
    }

    /// Text that a domain printed; whole lines appear, marked with its number.
    pub fn guest_lines(&self, hv: &Hypervisor<H>, domain: &DomainRef<H>, text: &[u8]) {
        for byte in text {
            let line = {
                let mut lines = domain.console.0.lock();
                let ended = lines.push(*byte);
                ended.and_then(|text| lines.admit(text, hv.hal.now()))
            };
            if let Some(line) = line
                && self.levels.print(GUEST, log::Level::Info)
            {
                self.print_guest_line(hv, domain.id(), &line);
            }
        }
    }

    /// Prints what a domain did not end, because its focus or its life is over.
    pub fn guest_flush(&self, hv: &Hypervisor<H>, domain: &DomainRef<H>) {
        if !domain.console.0.lock().text.is_empty() {
            self.guest_lines(hv, domain, b"\n");
        }
    }

    fn print_guest_line(&self, hv: &Hypervisor<H>, id: DomId, line: &Line) {
        let mut out = Marked::default();
        if line.dropped > 0 {
            let _ = writeln!(
                out,
                "({id}) ({} lines left out: too many at once)",
                line.dropped
            );
            self.write_line(&hv.hal, &out.0);
            out.0.clear();
        }
        let _ = write!(out, "({id}) ");
        let _ = out.0.try_extend_from_slice(&line.text);
        let _ = out.0.try_push(b'\n');
        self.write_line(&hv.hal, &out.0);
    }
}

#[derive(Default)]
struct Marked(ArrayVec<u8, MARKED>);

impl core::fmt::Write for Marked {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        self.0
            .try_extend_from_slice(text.as_bytes())
            .map_err(|_| core::fmt::Error)
    }
}
