//! The two-level ABI: a pending bit and a mask bit per port, a selector word and an upcall byte per vCPU.
//!
//! The hand-off between sender and guest is written over [`Words`], so that the very functions that run over guest
//! memory also run over loom's atomics (`tests/event_handoff.rs`). Every access is sequentially consistent. The promise:
//! a bit that goes from clear to pending while its port is not masked is seen by a guest that follows the order of
//! `xen.h`: clear the upcall byte, take the selector, then look at the words.

use xenolith_abi::shared_info::EVENT_WORDS;
use xenolith_hal::{
    AtomicOp::{self, And, Load, Or},
    Hal,
};

pub use super::delivery::Signal;
use crate::{Domain, Vcpu};

/// How many ports the ABI has.
pub const PORTS: u32 = (EVENT_WORDS * 64) as u32;

/// The shared words as one vCPU's delivery sees them; each method is one atomic access.
pub trait Words {
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
    /// Sets bits of the vCPU's selector; returns the old selector.
    fn select(&self, bits: u64) -> u64;
    /// Sets the vCPU's upcall byte; tells whether it was set already.
    fn set_upcall(&self) -> bool;
}

const fn place(port: u32) -> (usize, u64) {
    ((port / 64) as usize, 1 << (port % 64))
}

/// Makes a port pending.
#[inline]
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

#[inline]
fn tell(words: &impl Words, word: usize) -> Signal {
    let bit = 1 << word;
    if words.select(bit) & bit != 0 || words.set_upcall() {
        return Signal::Quiet;
    }
    Signal::Upcall
}

/// The words in a domain's shared info and in one vCPU's `vcpu_info`.
///
/// The frames are RAM that the domain keeps, so no access fails; a failed one would change nothing and counts as "told
/// already". A vCPU without a `vcpu_info` counts so too: when it registers one, it is told of everything.
pub(super) struct GuestWords<'a, H: Hal> {
    hal: &'a H,
    shared: Option<H::Frame>,
    info: Option<(H::Frame, usize)>,
    narrow: bool,
}

impl<'a, H: Hal> GuestWords<'a, H> {
    #[inline]
    pub(super) fn new(hal: &'a H, domain: &Domain<H>, vcpu: &Vcpu<H>) -> Self {
        Self {
            hal,
            shared: domain.shared_frame,
            info: domain.info_frame(hal, vcpu),
            narrow: domain.is_narrow(),
        }
    }

    /// For accesses that concern no vCPU.
    pub(super) fn of_domain(hal: &'a H, domain: &Domain<H>) -> Self {
        Self {
            hal,
            shared: domain.shared_frame,
            info: None,
            narrow: domain.is_narrow(),
        }
    }

    /// The same in both forms.
    const PENDING: usize = {
        assert!(H::SHARED_INFO.evtchn_pending == H::NARROW_SHARED_INFO.evtchn_pending);
        H::SHARED_INFO.evtchn_pending
    };

    const UPCALL: usize = {
        let (one, other) = (H::SHARED_INFO.vcpu, H::NARROW_SHARED_INFO.vcpu);
        assert!(one.evtchn_upcall_pending == other.evtchn_upcall_pending);
        one.evtchn_upcall_pending
    };

    #[inline(always)]
    fn pending_at(word: usize) -> usize {
        Self::PENDING + word * 8
    }

    #[inline(always)]
    fn mask_at(&self, word: usize) -> usize {
        let mask = match H::NARROW_CALLERS && self.narrow {
            true => H::NARROW_SHARED_INFO.evtchn_mask,
            false => H::SHARED_INFO.evtchn_mask,
        };
        mask + word * 8
    }

    #[inline(always)]
    fn shared(&self, at: usize, op: AtomicOp<u64>) -> Option<u64> {
        Some(self.hal.word64(self.shared?, at, op))
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

    #[inline]
    fn select(&self, bits: u64) -> u64 {
        let Some((frame, offset)) = self.info else {
            return u64::MAX;
        };
        if H::NARROW_CALLERS && self.narrow {
            return select_narrow(self.hal, (frame, offset), bits);
        }
        let at = H::SHARED_INFO.vcpu.evtchn_pending_sel;
        self.hal.word64(frame, offset + at, Or(bits))
    }

    #[inline]
    fn set_upcall(&self) -> bool {
        let Some((frame, offset)) = self.info else {
            return true;
        };
        self.hal.word8(frame, offset + Self::UPCALL, Or(1)) & 1 != 0
    }
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
