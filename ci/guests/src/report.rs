//! Result lines, as `cargo xtask` reads them:
//! `[guest] ok NAME`, `[guest] FAIL NAME: why`, `[guest] value NAME NUMBER`, and at the end
//! `[guest] done P passed F failed`.

use core::fmt::{self, Write};

use core::panic::PanicInfo;
use core::sync::atomic::{AtomicU32, Ordering};

use crate::console::line;
use crate::{arch, bootargs, xen};

/// Why a case failed, in words.
pub struct Why {
    bytes: [u8; 200],
    used: usize,
}

impl Why {
    /// Puts the words together.
    pub fn new(arguments: fmt::Arguments) -> Self {
        let mut why = Self {
            bytes: [0; 200],
            used: 0,
        };
        let _ = why.write_fmt(arguments);
        why
    }
}

impl Write for Why {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes().take(self.bytes.len() - self.used) {
            self.bytes[self.used] = byte;
            self.used += 1;
        }
        Ok(())
    }
}

/// What a case comes to.
pub type Outcome = Result<(), Why>;

/// Fails the case unless the two are equal.
#[macro_export]
macro_rules! expect {
    ($got:expr, $want:expr) => {
        $crate::expect!($got, $want, "{}", stringify!($got))
    };
    ($got:expr, $want:expr, $($what:tt)+) => {{
        let (got, want) = ($got, $want);
        if got != want {
            return Err($crate::report::Why::new(format_args!(
                "{}: got {:?}, expected {:?}", format_args!($($what)+), got, want)));
        }
    }};
}

/// Fails the case unless the condition holds.
#[macro_export]
macro_rules! ensure {
    ($condition:expr) => { $crate::ensure!($condition, "{}", stringify!($condition)) };
    ($condition:expr, $($what:tt)+) => {
        if !$condition {
            return Err($crate::report::Why::new(format_args!($($what)+)));
        }
    };
}

static PASSED: AtomicU32 = AtomicU32::new(0);
static FAILED: AtomicU32 = AtomicU32::new(0);

/// Whether the word `only=PREFIX,PREFIX` on the command line leaves this name in.
pub fn is_wanted(name: &str) -> bool {
    bootargs::word("only").is_none_or(|list| list.split(',').any(|prefix| name.starts_with(prefix)))
}

/// A guest's run of cases.
pub struct Report(());

impl Report {
    /// Begins.
    pub fn begin(guest: &str) -> Self {
        line(format_args!("[guest] begin {guest} {}", crate::arch::NAME));
        Self(())
    }

    /// Runs a case and prints how it went.
    pub fn case(&mut self, name: &str, case: fn() -> Outcome) {
        if !is_wanted(name) {
            return;
        }
        let mut outcome = Ok(());
        let ended = arch::attempt(&mut || outcome = case());
        match (ended, outcome) {
            (false, _) => failed(name, "it ended in a panic, see above"),
            (true, Err(why)) => failed(
                name,
                core::str::from_utf8(&why.bytes[..why.used]).unwrap_or("?"),
            ),
            (true, Ok(())) => {
                PASSED.fetch_add(1, Ordering::Relaxed);
                line(format_args!("[guest] ok {name}"));
            }
        }
    }

    /// Runs a table of cases.
    pub fn cases(&mut self, table: &[(&str, fn() -> Outcome)]) {
        for (name, case) in table {
            self.case(name, *case);
        }
    }

    /// Ends the guest.
    pub fn finish(self) -> ! {
        finish()
    }
}

fn failed(name: &str, why: &str) {
    FAILED.fetch_add(1, Ordering::Relaxed);
    line(format_args!("[guest] FAIL {name}: {why}"));
}

fn finish() -> ! {
    let (passed, failed) = (
        PASSED.load(Ordering::Relaxed),
        FAILED.load(Ordering::Relaxed),
    );
    line(format_args!("[guest] done P {passed} F {failed}"));
    xen::sched::power_off()
}

/// A panic: inside a case it fails the case, elsewhere it ends the guest.
pub(crate) fn panicked(info: &PanicInfo) -> ! {
    line(format_args!("[guest] panic: {info}"));
    arch::escape();
    failed("panic", "outside of a case");
    finish()
}

/// Prints a number that may rightly differ between hypervisors, or a measurement.
pub fn value(name: impl fmt::Display, number: i64) {
    line(format_args!("[guest] value {name} {number}"));
}
