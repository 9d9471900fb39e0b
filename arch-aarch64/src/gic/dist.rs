//! The physical distributor, as far as GICv2 and GICv3 are alike: one bit (or field) per shared interrupt.
//!
//! Enable, pending and active bits are set and cleared by writing ones, so they need no lock. Configuration fields are
//! read-modify-write; they change only while a domain is being built and through [`Distributor::configure`], under
//! the lock kept here.

use tock_registers::interfaces::{Readable, Writeable};
use xenolith_hal::sync::{Mutex, Rank};

use super::regs::{GICD_CTLR, GICD_TYPER, Gicd};

/// How a line signals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// A change of the line is an interrupt.
    Edge,
    /// The interrupt is pending as long as the line is asserted.
    Level,
}

/// The priority of every interrupt: the middle of the range, the same for all.
const PRIORITY: u32 = 0xa0a0_a0a0;

/// First interrupt number that is shared between CPUs.
pub(super) const FIRST_SPI: u32 = 32;
/// Interrupt numbers from here up are special.
pub(super) const SPECIAL: u32 = 1020;

pub(super) struct Distributor {
    regs: &'static Gicd,
    fields: Mutex<()>,
}

const fn word(intid: u32) -> usize {
    (intid as usize >> 5) & 31
}

const fn bit(intid: u32) -> u32 {
    1 << (intid & 31)
}

impl Distributor {
    pub(super) const fn new(regs: &'static Gicd) -> Self {
        Self {
            regs,
            fields: Mutex::new(Rank::Console, ()),
        }
    }

    #[cfg(feature = "gicv2")]
    pub(super) const fn regs(&self) -> &'static Gicd {
        self.regs
    }

    /// How many interrupt numbers there are, special ones left out.
    pub(super) fn lines(&self) -> u32 {
        (32 * (self.regs.TYPER.read(GICD_TYPER::IT_LINES) + 1)).min(SPECIAL)
    }

    /// Waits until the distributor has taken earlier writes to heart. Bounded: a distributor that never answers is
    /// not waited for.
    pub(super) fn settle(&self) {
        for _ in 0..1_000_000 {
            if !self.regs.CTLR.is_set(GICD_CTLR::RWP) {
                return;
            }
            core::hint::spin_loop();
        }
    }

    /// Disables all shared interrupts, makes them inactive, level-triggered and of equal priority.
    pub(super) fn silence(&self) {
        self.regs.CTLR.set(0);
        self.settle();
        let words = self.lines().div_ceil(32) as usize;
        for n in 1..words {
            self.regs.ICENABLER[n].set(u32::MAX);
            self.regs.ICACTIVER[n].set(u32::MAX);
            self.regs.ICPENDR[n].set(u32::MAX);
        }
        for n in 8..words * 8 {
            self.regs.IPRIORITYR[n].set(PRIORITY);
        }
        for n in 2..words * 2 {
            self.regs.ICFGR[n].set(0);
        }
    }

    pub(super) fn enable(&self, intid: u32) {
        self.regs.ISENABLER[word(intid)].set(bit(intid));
    }

    pub(super) fn disable(&self, intid: u32) {
        self.regs.ICENABLER[word(intid)].set(bit(intid));
        self.settle();
    }

    pub(super) fn set_pending(&self, intid: u32) {
        self.regs.ISPENDR[word(intid)].set(bit(intid));
    }

    #[cfg(feature = "gicv2")]
    pub(super) fn set_active(&self, intid: u32) {
        self.regs.ISACTIVER[word(intid)].set(bit(intid));
    }

    pub(super) fn clear_active(&self, intid: u32) {
        self.regs.ICACTIVER[word(intid)].set(bit(intid));
    }

    /// Sets how a shared interrupt's line signals. The interrupt must be disabled.
    pub(super) fn configure(&self, intid: u32, trigger: Trigger) {
        let _held = self.fields.lock();
        let register = &self.regs.ICFGR[(intid as usize >> 4) & 63];
        register.set(with_trigger(register.get(), intid, trigger));
    }

    /// GICv2: sends a shared interrupt to the CPU interfaces in `targets`.
    #[cfg(feature = "gicv2")]
    pub(super) fn target(&self, intid: u32, targets: u8) {
        let _held = self.fields.lock();
        let register = &self.regs.ITARGETSR[(intid as usize >> 2) & 255];
        let shift = (intid & 3) * 8;
        let rest = register.get() & !(0xff << shift);
        register.set(rest | u32::from(targets) << shift);
    }
}

/// A word of `ICFGR` with the field of `intid` changed.
pub(super) const fn with_trigger(word: u32, intid: u32, trigger: Trigger) -> u32 {
    let edge = 2 << ((intid & 15) * 2);
    match trigger {
        Trigger::Edge => word | edge,
        Trigger::Level => word & !edge,
    }
}

pub(super) const DEFAULT_PRIORITY: u32 = PRIORITY;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trigger_changes_only_its_own_field() {
        assert_eq!(with_trigger(0, 33, Trigger::Edge), 0b1000);
        assert_eq!(with_trigger(u32::MAX, 47, Trigger::Level), 0x7fff_ffff);
        assert_eq!(
            with_trigger(0x5555_5555, 32, Trigger::Level),
            0x5555_5555,
            "the read-only low bit of a field stays"
        );
    }
}
