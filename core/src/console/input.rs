//! What is typed: the switch key, and bytes that wait for a domain to read them.

use arrayvec::ArrayVec;
use xenolith_hal::Hal;

use super::{Console, Focus};
use crate::{DomId, DomainRef, Hypervisor};

/// Bytes that wait at most; what is typed beyond is lost.
const WAITING: usize = 128;
/// Domains beside dom0 that the switch key goes through.
const OFFERED: usize = 64;
/// How often in a row the switch key must be pressed.
const PRESSES: u8 = 3;

/// State of the input.
pub(super) struct Input {
    waiting: ArrayVec<u8, WAITING>,
    /// Whom it was typed for.
    reader: DomId,
    /// Bytes taken since the start: a reader that comes second sees that it did.
    taken: u64,
    /// The switch key was pressed so often in a row.
    presses: u8,
    /// Rising.
    offered: ArrayVec<DomId, OFFERED>,
}

/// A copy of what waits for a domain.
pub struct Typed {
    bytes: ArrayVec<u8, WAITING>,
    taken: u64,
}

impl Typed {
    /// The bytes, in the order they were typed.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// What a byte means.
enum Meaning {
    /// Held back: it may be the switch key's.
    Held,
    /// Move the focus.
    Switch,
    /// Deliver the switch key so often, then the byte.
    Deliver(u8),
}

impl Input {
    pub(super) const fn new() -> Self {
        Self {
            waiting: ArrayVec::new_const(),
            reader: DomId(0),
            taken: 0,
            presses: 0,
            offered: ArrayVec::new_const(),
        }
    }

    fn meaning(&mut self, byte: u8, switch: Option<u8>) -> Meaning {
        if Some(byte) != switch {
            return Meaning::Deliver(core::mem::take(&mut self.presses));
        }
        self.presses += 1;
        if self.presses < PRESSES {
            return Meaning::Held;
        }
        self.presses = 0;
        Meaning::Switch
    }

    pub(super) fn offer(&mut self, id: DomId) -> bool {
        let Err(place) = self.offered.binary_search(&id) else {
            return true;
        };
        self.offered.try_insert(place, id).is_ok()
    }

    pub(super) fn offered_after(&self, id: Option<DomId>) -> Option<DomId> {
        self.offered
            .iter()
            .copied()
            .find(|offered| Some(*offered) > id)
    }

    fn put(&mut self, reader: DomId, byte: u8) {
        if self.reader != reader {
            self.reader = reader;
            self.taken = self.taken.wrapping_add(self.waiting.len() as u64);
            self.waiting.clear();
        }
        let _ = self.waiting.try_push(byte);
    }
}

impl<H: Hal> Console<H> {
    /// A byte came from the machine's console. Called where no lock is held: an interrupt comes only in guest mode or
    /// when idle.
    pub fn input(&self, hv: &Hypervisor<H>, byte: u8) {
        let switch = self.switch();
        let meaning = self.input.lock().meaning(byte, switch);
        match meaning {
            Meaning::Held => {}
            Meaning::Switch => self.next_focus(hv),
            Meaning::Deliver(held) => {
                for _ in 0..held {
                    self.deliver(hv, switch.unwrap_or(byte));
                }
                self.deliver(hv, byte);
            }
        }
    }

    fn deliver(&self, hv: &Hypervisor<H>, byte: u8) {
        let reader = match self.focus() {
            Focus::Xenolith => return hv.debug_key(byte),
            Focus::Dom0 => DomId(0),
            Focus::Domain(id) => id,
        };
        let Some(domain) = hv.domains.get(reader) else {
            return;
        };
        if let Some(device) = self.device.get()
            && device(hv, &domain, byte)
        {
            return;
        }
        self.input.lock().put(reader, byte);
        hv.console_input_waits(&domain);
    }

    /// What was typed for a domain and not taken yet.
    pub fn typed_for(&self, domain: &DomainRef<H>) -> Typed {
        let input = self.input.lock();
        let mut bytes = input.waiting.clone();
        if input.reader != domain.id() {
            bytes.clear();
        }
        Typed {
            bytes,
            taken: input.taken,
        }
    }

    /// Takes the first bytes of a copy out; nothing if another reader was faster.
    pub fn take_typed(&self, typed: &Typed, count: usize) {
        let mut input = self.input.lock();
        if input.taken == typed.taken {
            let count = count.min(input.waiting.len());
            input.waiting.drain(..count);
            input.taken = input.taken.wrapping_add(count as u64);
        }
    }
}
