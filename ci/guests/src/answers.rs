//! Many calls and their answers in one case: each that differs is printed, and the case fails at its end.

use core::fmt;

use crate::console;
use crate::report::{Outcome, Why};

/// Counts the answers that differ.
#[derive(Default)]
pub struct Answers {
    asked: u32,
    differ: u32,
}

impl Answers {
    /// Takes one answer.
    pub fn take<T: PartialEq + fmt::Debug>(&mut self, what: impl fmt::Display, got: T, wanted: T) {
        self.asked += 1;
        if got != wanted {
            self.differ += 1;
            console::line(format_args!(
                "[guest] differs {what}: got {got:x?}, expected {wanted:x?}"
            ));
        }
    }

    /// What the case comes to.
    pub fn end(self) -> Outcome {
        if self.differ == 0 {
            return Ok(());
        }
        let (differ, asked) = (self.differ, self.asked);
        Err(Why::new(format_args!("{differ} of {asked} answers differ")))
    }
}
