//! Who is being typed to, and how the switch key moves that on: dom0, the domains with a console device, Xenolith, and
//! dom0 again.

use core::sync::atomic::Ordering::{Relaxed, SeqCst};

use xenolith_hal::Hal;

use super::Console;
use crate::{DomId, Hypervisor};

/// Who gets what is typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Focus {
    /// The control domain.
    Dom0,
    /// The hypervisor: each key is a debug key.
    Xenolith,
    /// A domain made at boot.
    Domain(DomId),
}

const XENOLITH: u32 = 1 << 16;
const DOM0: DomId = DomId(0);

impl Focus {
    pub(super) const fn to_word(self) -> u32 {
        match self {
            Self::Dom0 => DOM0.0 as u32,
            Self::Domain(id) => id.0 as u32,
            Self::Xenolith => XENOLITH,
        }
    }

    const fn from_word(word: u32) -> Self {
        match word {
            XENOLITH => Self::Xenolith,
            0 => Self::Dom0,
            id => Self::Domain(DomId(id as u16)),
        }
    }
}

impl<H: Hal> Console<H> {
    /// Who gets what is typed.
    pub fn focus(&self) -> Focus {
        Focus::from_word(self.focus.load(Relaxed))
    }

    /// Gives the focus, silently.
    pub fn set_focus(&self, focus: Focus) {
        self.focus.store(focus.to_word(), SeqCst);
    }

    /// Whether a domain has the focus.
    pub fn has_focus(&self, id: DomId) -> bool {
        self.focus.load(Relaxed) == u32::from(id.0)
    }

    /// Sets the control code of the switch key; 0 leaves none (`conswitch=`).
    pub fn set_switch(&self, code: u8) {
        self.switch.store(code, Relaxed);
    }

    /// The switch key's control code.
    pub(super) fn switch(&self) -> Option<u8> {
        Some(self.switch.load(Relaxed)).filter(|code| *code != 0)
    }

    /// Adds a domain to those that the switch key goes through. False when there are too many.
    pub fn offer_focus(&self, id: DomId) -> bool {
        id == DOM0 || self.input.lock().offer(id)
    }

    /// Moves the focus to the next that is there, and says so.
    pub fn next_focus(&self, hv: &Hypervisor<H>) {
        let old = self.focus();
        if let Focus::Domain(id) = old
            && let Some(domain) = hv.domains.get(id)
        {
            self.guest_flush(hv, &domain);
        }
        let mut focus = old;
        // Xenolith is always there, so this ends.
        loop {
            focus = self.after(focus);
            match focus {
                Focus::Xenolith => break,
                Focus::Dom0 if hv.domains.get(DOM0).is_some() => break,
                Focus::Domain(id) if hv.domains.get(id).is_some() => break,
                _ => {}
            }
        }
        self.set_focus(focus);
        self.announce_focus(hv);
    }

    /// Tells the person at the console who gets what is typed.
    pub fn announce_focus(&self, hv: &Hypervisor<H>) {
        let key = self
            .switch()
            .map_or('?', |code| char::from(code.saturating_add(b'a' - 1)));
        let onward = format_args!("Ctrl-{key} three times: next");
        match self.focus() {
            Focus::Dom0 => self.print(&hv.hal, format_args!("Keys go to dom0 now ({onward})")),
            Focus::Domain(id) => {
                self.print(&hv.hal, format_args!("Keys go to {id} now ({onward})"))
            }
            Focus::Xenolith => self.print(
                &hv.hal,
                format_args!("Keys go to Xenolith now, h for help ({onward})"),
            ),
        }
    }

    fn after(&self, focus: Focus) -> Focus {
        let next = match focus {
            Focus::Xenolith => return Focus::Dom0,
            Focus::Dom0 => self.input.lock().offered_after(None),
            Focus::Domain(id) => self.input.lock().offered_after(Some(id)),
        };
        next.map_or(Focus::Xenolith, Focus::Domain)
    }
}
