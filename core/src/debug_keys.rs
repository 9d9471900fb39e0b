//! Debug keys: what a person at the console can ask of Xenolith by one key.
//!
//! Each is one row of a table; its handler writes text and holds no lock while it does.

mod dump;

use core::fmt::{self, Write as _};

use xenolith_hal::Hal;

use crate::{Hypervisor, console::LineWriter};

type Handler<H> = fn(&Hypervisor<H>, &mut dyn fmt::Write) -> fmt::Result;

/// One key.
pub struct DebugKey<H: Hal> {
    /// The character.
    pub key: u8,
    /// What it does, in a few words.
    pub help: &'static str,
    run: Handler<H>,
}

impl<H: Hal> DebugKey<H> {
    const fn new(key: u8, help: &'static str, run: Handler<H>) -> Self {
        Self { key, help, run }
    }

    /// Every key.
    pub const ALL: &'static [Self] = &[
        Self::new(b'd', "registers of every vCPU", dump::registers),
        Self::new(b'e', "event channels", dump::events),
        Self::new(b'g', "grants", dump::grants),
        Self::new(b'h', "this help", help),
        Self::new(b'm', "memory", dump::memory),
        Self::new(b'q', "domains and their vCPUs", dump::domains),
        Self::new(b'R', "restart the machine at once", restart),
        Self::new(b'r', "what each CPU runs", dump::run_queues),
        Self::new(b't', "time and timers", dump::time),
    ];
}

impl<H: Hal> Hypervisor<H> {
    /// Runs a debug key; its text appears on the console.
    pub fn debug_key(&self, key: u8) {
        let mut out = LineWriter::new(&self.console, &self.hal);
        let _ = match DebugKey::<H>::ALL.iter().find(|row| row.key == key) {
            Some(row) => writeln!(out, "key {}: {}", char::from(key), row.help)
                .and_then(|()| (row.run)(self, &mut out)),
            None => writeln!(out, "no such key ({:?}); h lists them", char::from(key)),
        };
    }
}

fn help<H: Hal>(_: &Hypervisor<H>, out: &mut dyn fmt::Write) -> fmt::Result {
    for row in DebugKey::<H>::ALL {
        writeln!(out, "  {}  {}", char::from(row.key), row.help)?;
    }
    Ok(())
}

fn restart<H: Hal>(hv: &Hypervisor<H>, _: &mut dyn fmt::Write) -> fmt::Result {
    hv.hal.restart()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{console::Focus, hypercall::rig::*};
    use alloc::string::String;
    use xenolith_sim::{MachineEnd, Sim, ended_with};

    fn press(rig: &Rig, key: u8) -> String {
        rig.hv.console.set_focus(Focus::Xenolith);
        rig.hv.console.input(&rig.hv, key);
        rig.hv.hal.take_console()
    }

    #[test]
    fn help_names_every_key() {
        let rig = Rig::new();
        let text = press(&rig, b'h');
        for row in DebugKey::<Sim>::ALL {
            assert!(text.contains(row.help), "{text}");
        }
        assert!(press(&rig, b'\x07').contains("no such key ('\\u{7}'); h lists them"));
    }

    #[test]
    fn every_key_but_restart_answers() {
        let rig = Rig::new();
        for row in DebugKey::<Sim>::ALL.iter().filter(|row| row.key != b'R') {
            assert!(press(&rig, row.key).lines().count() > 1, "{}", row.help);
        }
        assert!(press(&rig, b'q').contains("d1"));
        assert!(press(&rig, b'm').contains("d1: 16 frames of its own"));
    }

    #[test]
    fn capital_r_restarts_the_machine() {
        let rig = Rig::new();
        assert_eq!(
            ended_with(|| drop(press(&rig, b'R'))),
            Some(MachineEnd::Restart)
        );
    }

    #[test]
    fn keys_do_nothing_while_dom0_has_the_focus() {
        let rig = Rig::new();
        rig.hv.console.input(&rig.hv, b'h');
        assert_eq!(rig.hv.hal.take_console(), "");
    }
}
