//! INIT, start-up and NMI messages that wait for their vCPU, as one atomic word.
//!
//! A start-up message counts only after an INIT and before another start-up (Intel SDM, volume 3, 11.4.2): the word holds
//! that state too, so that senders race without a lock.

use core::sync::atomic::{
    AtomicU32,
    Ordering::{Relaxed, SeqCst},
};

const START_PAGE: u32 = 0xff;
const START: u32 = 1 << 8;
const INIT: u32 = 1 << 9;
const NMI: u32 = 1 << 10;
/// The vCPU has taken an INIT (or was made so) and waits for a start-up message.
const WAITING: u32 = 1 << 11;

/// Nothing has run on the vCPU since it was reset: another INIT changes nothing, and what its APIC was given since then
/// stays.
const FRESH: u32 = 1 << 12;
/// The vCPU has halted with its interrupts off: nothing but an INIT or NMI makes it go on.
const DEAF: u32 = 1 << 13;

/// A hypercall has given the vCPU, which waited for its start, registers to start with; it is not up yet.
const GIVEN: u32 = 1 << 14;

/// The word.
pub struct Signals(AtomicU32);

/// What came since the owner looked last; to be acted on in the order of the fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pending {
    /// Reset the vCPU, as INIT does, and let it wait for a start-up message.
    pub init: bool,
    /// Start in real mode at this page number.
    pub start: Option<u8>,
    /// Start with the registers that a hypercall gave.
    pub given: bool,
    /// Inject a non-maskable interrupt.
    pub nmi: bool,
}

impl Signals {
    const fn initial(waiting: bool) -> u32 {
        if waiting { WAITING | FRESH } else { 0 }
    }

    /// The boot vCPU runs; the others wait for their start-up message.
    pub(super) const fn new(waiting: bool) -> Self {
        Self(AtomicU32::new(Self::initial(waiting)))
    }

    pub(super) fn reset(&self, waiting: bool) {
        self.0.store(Self::initial(waiting), SeqCst);
    }

    fn change(&self, change: impl Fn(u32) -> Option<u32>) -> bool {
        self.0.fetch_update(SeqCst, Relaxed, change).is_ok()
    }

    /// A non-maskable interrupt; true when none was waiting.
    pub fn post_nmi(&self) -> bool {
        self.0.fetch_or(NMI, SeqCst) & NMI == 0
    }

    /// An INIT: takes back what was waiting. Nothing to do for a vCPU that has not run since its last reset.
    pub fn post_init(&self) -> bool {
        self.change(|word| match word {
            INIT => None,
            _ if word & FRESH != 0 => (word & START != 0).then_some(WAITING | FRESH),
            _ => Some(INIT),
        })
    }

    /// A start-up at a page; false when the vCPU does not wait for one.
    pub fn post_start(&self, page: u8) -> bool {
        self.change(|word| {
            (word & (INIT | WAITING) != 0 && word & START == 0)
                .then_some(word & !START_PAGE | START | u32::from(page))
        })
    }

    /// Whether a message waits for the owner: one load.
    #[must_use]
    #[inline]
    pub fn is_pending(&self) -> bool {
        self.0.load(Relaxed) & (START | INIT | NMI) != 0
    }

    /// Whether the vCPU may not run because it has been told to wait for a start-up message.
    #[must_use]
    pub fn is_waiting_for_start(&self) -> bool {
        self.0.load(Relaxed) & (WAITING | START) == WAITING
    }

    /// A hypercall gives the vCPU registers to start with; false when it does not wait for its start.
    pub fn give_registers(&self) -> bool {
        self.change(|word| {
            let waits = word & WAITING != 0 && word & (START | INIT) == 0;
            waits.then_some(word & NMI | GIVEN)
        })
    }

    /// The vCPU halts with its interrupts off. What came before and ends such a halt is still pending then.
    pub fn halt_deaf(&self) {
        self.0.fetch_or(DEAF, SeqCst);
    }

    /// Whether the vCPU has halted with its interrupts off.
    #[must_use]
    pub fn is_deaf(&self) -> bool {
        self.0.load(Relaxed) & DEAF != 0
    }

    /// Whether the owner must look before it enters its guest: one load.
    #[must_use]
    #[inline]
    pub fn wants_look(&self) -> bool {
        self.0.load(Relaxed) & (START | INIT | NMI | DEAF | GIVEN) != 0
    }

    /// Takes what came. An NMI stays for a vCPU that waits for its start-up.
    pub fn take(&self) -> Pending {
        let next = |word: u32| {
            if word & START != 0 {
                0
            } else if word & (INIT | WAITING) != 0 {
                WAITING | FRESH | word & NMI
            } else if word & (NMI | GIVEN) != 0 {
                0
            } else {
                word & DEAF
            }
        };
        let word = self
            .0
            .fetch_update(SeqCst, Relaxed, |word| Some(next(word)))
            .unwrap_or_else(|word| word);
        Pending {
            init: word & INIT != 0,
            start: (word & START != 0).then_some((word & START_PAGE) as u8),
            given: word & GIVEN != 0,
            nmi: word & NMI != 0 && next(word) & NMI == 0,
        }
    }
}
