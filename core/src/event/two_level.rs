//! The two-level ABI: a pending bit and a mask bit per port, a selector word and an upcall byte per vCPU.
//!
//! The hand-off between sender and guest is written over [`Words`], so that the very functions that run over guest
//! memory also run over loom's atomics (`tests/event_handoff.rs`). Every access is sequentially consistent. The promise:
//! a bit that goes from clear to pending while its port is not masked is seen by a guest that follows the order of
//! `xen.h`: clear the upcall byte, take the selector, then look at the words.

use xenolith_abi::shared_info::EVENT_WORDS;
use xenolith_hal::{
    AtomicOp::{self, And, Load, Or, Swap},
    Hal,
};

pub use super::delivery::Signal;
use crate::{Domain, Vcpu};

/// How many ports the ABI has.
pub const PORTS: u32 = (EVENT_WORDS * 64) as u32;

/// The shared words as one vCPU's delivery sees them; each method is one atomic access.
pub trait Words {
    /// Those of the vCPU that is told.
    type Vcpu<'a>: VcpuWords
    where
        Self: 'a;
    /// Sets bits of a pending word; returns the old word.
    fn set_pending(&self, word: usize, bits: u64) -> u64;
    /// Clears bits of a pending word.
    fn clear_pending(&self, word: usize, bits: u64);
    /// Reads a pending word.
    fn pending(&self, word: usize) -> u64;
    /// Reads a mask word.
    fn mask(&self, word: usize) -> u64;
    /// Clears bits of a mask word; returns the old word.
    fn clear_mask(&self, word: usize, bits: u64) -> u64;
    /// Where the vCPU is told, if it is told anywhere. Looked for only when there is something to tell.
    fn vcpu(&self) -> Option<Self::Vcpu<'_>>;
}

/// What is one vCPU's of the shared words.
pub trait VcpuWords {
    /// Sets a word's bit in the selector; tells whether it was set already. Two accesses: of two senders that do it at once, both may
    /// find that it was not.
    fn select(&self, word: usize) -> bool;
    /// Sets the upcall byte; tells whether it was set already.
    fn set_upcall(&self) -> bool;
}

const fn place(port: u32) -> (usize, u64) {
    ((port / 64) as usize, 1 << (port % 64))
}

/// Makes a port pending.
#[inline(always)]
pub fn raise(words: &impl Words, port: u32) -> Signal {
    let (word, bit) = place(port);
    if words.set_pending(word, bit) & bit != 0 {
        return Signal::Already;
    }
    if words.mask(word) & bit != 0 {
        return Signal::Quiet;
    }
    tell(words, word)
}

/// Unmasks a port; what became pending while it was masked is told now.
pub fn unmask(words: &impl Words, port: u32) -> Signal {
    let (word, bit) = place(port);
    if words.clear_mask(word, bit) & bit == 0 || words.pending(word) & bit == 0 {
        return Signal::Quiet;
    }
    tell(words, word)
}

#[inline(always)]
fn tell(words: &impl Words, word: usize) -> Signal {
    match words.vcpu() {
        Some(vcpu) if !vcpu.select(word) && !vcpu.set_upcall() => Signal::Upcall,
        _ => Signal::Quiet,
    }
}

/// The words in a domain's shared info and in one vCPU's `vcpu_info`.
///
/// The frames are RAM that the domain keeps, so no access fails; a failed one would change nothing and counts as "told
/// already". A vCPU without a `vcpu_info` counts so too: when it registers one, it is told of everything.
pub(super) struct GuestWords<'a, H: Hal> {
    hal: &'a H,
    domain: &'a Domain<H>,
    vcpu: Option<&'a Vcpu<H>>,
}

/// What is one vCPU's of them.
pub(super) struct InfoWords<'a, H: Hal> {
    hal: &'a H,
    frame: H::Frame,
    offset: usize,
    narrow: bool,
}

impl<'a, H: Hal> GuestWords<'a, H> {
    #[inline(always)]
    pub(super) fn new(hal: &'a H, domain: &'a Domain<H>, vcpu: &'a Vcpu<H>) -> Self {
        Self {
            hal,
            domain,
            vcpu: Some(vcpu),
        }
    }

    /// For accesses that concern no vCPU.
    pub(super) fn of_domain(hal: &'a H, domain: &'a Domain<H>) -> Self {
        Self {
            hal,
            domain,
            vcpu: None,
        }
    }

    /// The same in both forms.
    const PENDING: usize = {
        assert!(H::SHARED_INFO.evtchn_pending == H::NARROW_SHARED_INFO.evtchn_pending);
        H::SHARED_INFO.evtchn_pending
    };

    #[inline(always)]
    fn pending_at(word: usize) -> usize {
        Self::PENDING + word * 8
    }

    #[inline(always)]
    fn mask_at(&self, word: usize) -> usize {
        let mask = match H::NARROW_CALLERS && self.domain.is_narrow() {
            true => H::NARROW_SHARED_INFO.evtchn_mask,
            false => H::SHARED_INFO.evtchn_mask,
        };
        mask + word * 8
    }

    #[inline(always)]
    fn shared(&self, at: usize, op: AtomicOp<u64>) -> Option<u64> {
        Some(self.hal.word64(self.domain.shared_frame?, at, op))
    }

    pub(super) fn is_pending(&self, port: u32) -> bool {
        let (word, bit) = place(port);
        self.pending(word) & bit != 0
    }

    pub(super) fn is_masked(&self, port: u32) -> bool {
        let (word, bit) = place(port);
        self.mask(word) & bit != 0
    }

    pub(super) fn clear(&self, port: u32) {
        let (word, bit) = place(port);
        self.clear_pending(word, bit);
    }
}

impl<H: Hal> Words for GuestWords<'_, H> {
    type Vcpu<'a>
        = InfoWords<'a, H>
    where
        Self: 'a;

    #[inline]
    fn set_pending(&self, word: usize, bits: u64) -> u64 {
        self.shared(Self::pending_at(word), Or(bits))
            .unwrap_or(u64::MAX)
    }

    fn clear_pending(&self, word: usize, bits: u64) {
        self.shared(Self::pending_at(word), And(!bits));
    }

    fn pending(&self, word: usize) -> u64 {
        self.shared(Self::pending_at(word), Load).unwrap_or(0)
    }

    #[inline]
    fn mask(&self, word: usize) -> u64 {
        self.shared(self.mask_at(word), Load).unwrap_or(u64::MAX)
    }

    fn clear_mask(&self, word: usize, bits: u64) -> u64 {
        self.shared(self.mask_at(word), And(!bits)).unwrap_or(0)
    }

    #[inline(always)]
    fn vcpu(&self) -> Option<InfoWords<'_, H>> {
        let (frame, offset) = self.domain.info_frame(self.hal, self.vcpu?)?;
        Some(InfoWords {
            hal: self.hal,
            frame,
            offset,
            narrow: self.domain.is_narrow(),
        })
    }
}

impl<H: Hal> VcpuWords for InfoWords<'_, H> {
    #[inline(always)]
    fn select(&self, word: usize) -> bool {
        let bit = 1 << (word % 64);
        if H::NARROW_CALLERS && self.narrow {
            return select_narrow(self.hal, (self.frame, self.offset), bit) & bit != 0;
        }
        let at = self.offset + H::SHARED_INFO.vcpu.evtchn_pending_sel;
        let word = |op| self.hal.word64(self.frame, at, op);
        if word(Load) & bit != 0 {
            return true;
        }
        word(Or(bit));
        false
    }

    #[inline(always)]
    fn set_upcall(&self) -> bool {
        let at = self.offset + Self::UPCALL;
        self.hal.word8(self.frame, at, Swap(1)) & 1 != 0
    }
}

impl<H: Hal> InfoWords<'_, H> {
    const UPCALL: usize = {
        let (one, other) = (H::SHARED_INFO.vcpu, H::NARROW_SHARED_INFO.vcpu);
        assert!(one.evtchn_upcall_pending == other.evtchn_upcall_pending);
        one.evtchn_upcall_pending
    };
}

/// Selects words of 64 bits where the guest has words of 32: both halves, of which it may find one with nothing new. A word is
/// selected already if both halves are.
#[cold]
#[inline(never)]
fn select_narrow<H: Hal>(hal: &H, (frame, offset): (H::Frame, usize), bits: u64) -> u64 {
    let at = H::NARROW_SHARED_INFO.vcpu.evtchn_pending_sel;
    let halves = |word: u32| 0b11_u32.checked_shl(2 * word).unwrap_or(0);
    let wanted = (0..64)
        .filter(|word| bits >> word & 1 != 0)
        .fold(0, |all, word| all | halves(word));
    let old = hal.word32(frame, offset + at, Or(wanted));
    (0..16)
        .filter(|word| old & halves(*word) == halves(*word))
        .fold(0, |all, word| all | 1 << word)
}
