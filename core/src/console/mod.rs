//! The machine's console: what the hypervisor and its domains print on it, and who gets what is typed.
//!
//! Output is of three kinds: the hypervisor's own lines, which also go into a ring for tools to read later; lines of
//! domains, marked with the domain's number; and the raw bytes of the domain that a person is talking to. Input goes to
//! the one that has the [`Focus`]. No lock is held while the machine prints, so a message may come from anywhere.

mod focus;
mod guest;
mod input;
mod level;
mod output;
mod ring;
#[cfg(test)]
mod tests;

use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32};

use xenolith_hal::{
    Hal,
    sync::{Mutex, Rank},
};

use crate::{DomainRef, Hypervisor};

pub use focus::Focus;
pub use guest::GuestConsole;
pub use input::Typed;
pub use level::Levels;
pub use output::LineWriter;
pub use ring::Ring;

/// Gives a byte that was typed to a domain's own console device; false when it has none.
pub type DeviceInput<H> = fn(&Hypervisor<H>, &DomainRef<H>, u8) -> bool;

/// The control code of the switch key unless the command line says otherwise: Ctrl-a.
pub const SWITCH: u8 = 1;

/// The machine's console.
pub struct Console<H: Hal> {
    /// Which messages are printed.
    pub levels: Levels,
    ring: Mutex<Ring>,
    input: Mutex<input::Input>,
    focus: AtomicU32,
    /// Control code that moves the focus; 0: none.
    switch: AtomicU8,
    /// The cursor is in the middle of a line.
    in_line: AtomicBool,
    device: spin::Once<DeviceInput<H>>,
}

impl<H: Hal> Console<H> {
    /// Input goes to dom0, nothing was printed.
    pub fn new() -> Self {
        Self {
            levels: Levels::new(),
            ring: Mutex::new(Rank::Console, Ring::new()),
            input: Mutex::new(Rank::Console, input::Input::new()),
            focus: AtomicU32::new(Focus::Dom0.to_word()),
            switch: AtomicU8::new(SWITCH),
            in_line: AtomicBool::new(false),
            device: spin::Once::new(),
        }
    }

    /// Where input for a domain's own console device goes (the first call counts).
    pub fn set_device_input(&self, device: DeviceInput<H>) {
        self.device.call_once(|| device);
    }
}

impl<H: Hal> Default for Console<H> {
    fn default() -> Self {
        Self::new()
    }
}
