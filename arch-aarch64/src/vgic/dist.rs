//! The shared part of the virtual interrupt controller: every shared peripheral interrupt's state, and where it goes.

use alloc::{boxed::Box, vec::Vec};

use super::queue::WORDS;

/// No vCPU.
pub(super) const NOWHERE: u16 = u16::MAX;
/// Not in a list register.
pub(super) const NO_LR: u8 = u8::MAX;

/// One shared interrupt, as far as it is not a bit in [`Dist`].
#[derive(Clone, Copy)]
pub(super) struct Spi {
    /// Eight bits, of which the upper five count.
    pub(super) priority: u8,
    /// The list register of `holder` that it is resident in, or [`NO_LR`].
    pub(super) lr: u8,
    /// The vCPU in whose queue or list registers it is; means nothing when it is in neither.
    pub(super) holder: u16,
    /// The vCPU that it goes to next, or [`NOWHERE`].
    pub(super) target: u16,
    /// The CPU that acknowledged the physical interrupt behind it last.
    pub(super) taken_on: u16,
    /// `IROUTER` with affinity 3 in byte 3 (GICv3) or `ITARGETSR` (GICv2), as the guest wrote it.
    pub(super) route: u32,
}

impl Spi {
    pub(super) const fn resident(&self) -> bool {
        self.lr != NO_LR
    }
}

/// Everything under a domain's interrupt lock. Words hold one bit per interrupt number; word 0 is not used here.
pub(super) struct Dist {
    pub(super) enabled: [u32; WORDS],
    /// Pending until it reaches a list register.
    pub(super) latch: [u32; WORDS],
    /// Asserted lines of emulated devices.
    pub(super) line: [u32; WORDS],
    /// Active as last seen; for what is not resident this is the truth.
    pub(super) active: [u32; WORDS],
    /// Set where the guest says that a line is edge-triggered.
    pub(super) edge: [u32; WORDS],
    /// A physical interrupt of the same number stands behind it.
    pub(super) hardware: [u32; WORDS],
    pub(super) cancel_pending: [u32; WORDS],
    pub(super) cancel_active: [u32; WORDS],
    /// `GICD_CTLR` as written.
    pub(super) ctlr: u32,
    spis: Box<[Spi]>,
}

pub(super) const fn word(intid: u32) -> usize {
    (intid as usize >> 5) & (WORDS - 1)
}

pub(super) const fn bit(intid: u32) -> u32 {
    1 << (intid & 31)
}

impl Dist {
    /// `words` counts the private word; all shared interrupts go to vCPU 0 with the reset priority.
    pub(super) fn new(words: usize, route: u32) -> Self {
        let spi = Spi {
            priority: 0xa0,
            lr: NO_LR,
            holder: 0,
            target: 0,
            taken_on: 0,
            route,
        };
        let count = words.clamp(1, WORDS) * 32 - 32;
        Self {
            enabled: [0; WORDS],
            latch: [0; WORDS],
            line: [0; WORDS],
            active: [0; WORDS],
            edge: [0; WORDS],
            hardware: [0; WORDS],
            cancel_pending: [0; WORDS],
            cancel_active: [0; WORDS],
            ctlr: 0,
            spis: Vec::from_iter(core::iter::repeat_n(spi, count)).into(),
        }
    }

    /// The shared interrupt `intid`; `None` for private ones and those that the domain does not have.
    #[inline]
    pub(super) fn spi(&self, intid: u32) -> Option<&Spi> {
        self.spis.get((intid as usize).wrapping_sub(32))
    }

    #[inline]
    pub(super) fn spi_mut(&mut self, intid: u32) -> Option<&mut Spi> {
        self.spis.get_mut((intid as usize).wrapping_sub(32))
    }

    #[inline]
    pub(super) fn pending(&self, intid: u32) -> bool {
        (self.latch[word(intid)] | self.line[word(intid)]) & bit(intid) != 0
    }

    #[inline]
    pub(super) fn is_enabled(&self, intid: u32) -> bool {
        self.enabled[word(intid)] & bit(intid) != 0
    }

    /// The vCPU whose queue an interrupt belongs in now, if it is one that can be taken.
    pub(super) fn queue_of(&self, intid: u32) -> Option<u16> {
        let spi = self.spi(intid)?;
        if !self.is_enabled(intid) || !self.pending(intid) {
            return None;
        }
        if spi.resident() {
            // One that is pending for its line's sake stays with its list register.
            return (self.latch[word(intid)] & bit(intid) != 0).then_some(spi.holder);
        }
        let free = self.active[word(intid)] & bit(intid) == 0 && spi.target != NOWHERE;
        free.then_some(spi.target)
    }
}
