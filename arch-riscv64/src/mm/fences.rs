//! G-stage tables in memory, and the fences that make changes known (Privileged Architecture, "Hypervisor Memory-Management
//! Fence Instructions"; SBI, "RFENCE Extension").

use core::{
    arch::asm,
    ops::Range,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};

use xenolith_arch_common::second_level::{SecondLevel, TableMemory};
use xenolith_hal::{Gfn, Mfn};

use super::{
    gstage::{GStageFormat, Mode, hgatp},
    hyp::Direct,
};
use crate::{
    cpu::regs::{read, write},
    sbi,
};

/// The second-level tables of a domain.
pub type GStage = SecondLevel<GStageFormat, Tables>;

/// How one domain's tables are reached and fenced.
pub struct Tables {
    vmid: u16,
    mode: Mode,
}

/// The mode of all domains.
static MODE: spin::Once<Mode> = spin::Once::new();
/// How many bits of VMIDs every CPU has.
static VMID_BITS: AtomicU32 = AtomicU32::new(u32::MAX);

impl Tables {
    /// Of the domain with this number, with tables of this mode.
    pub const fn new(vmid: u16, mode: Mode) -> Self {
        Self { vmid, mode }
    }

    /// `hgatp` for these tables.
    pub const fn hgatp(&self, root: Mfn) -> u64 {
        hgatp(self.mode, self.vmid, root)
    }
}

impl TableMemory for Tables {
    #[inline]
    fn load(&self, table: Mfn, index: usize) -> u64 {
        let words = Direct::words(table);
        words.map_or(0, |words| {
            words.get(index).map_or(0, |word| word.load(Relaxed))
        })
    }

    #[inline]
    fn store(&self, table: Mfn, index: usize, value: u64) {
        if let Some(word) = Direct::words(table).and_then(|words| words.get(index)) {
            word.store(value, Relaxed);
        }
    }

    fn flush(&self, _: Mfn, changed: Range<Gfn>) {
        let frames = changed.end.0.saturating_sub(changed.start.0);
        sbi::fence_guest_physical(changed.start.0 << 12, frames << 12, self.vmid);
    }
}

/// Chooses the mode of all domains, the larger one if that is `wanted` and there. `None` when this CPU, the first one, has
/// neither.
pub fn choose(wanted: bool) -> Option<Mode> {
    let modes = [Mode::Sv48x4, Mode::Sv39x4];
    let first = if wanted { 0 } else { 1 };
    let mode = *modes
        .iter()
        .cycle()
        .skip(first)
        .take(2)
        .find(|m| has(**m))?;
    Some(*MODE.call_once(|| mode))
}

/// Whether this CPU has the mode that was chosen.
pub fn can_join() -> bool {
    MODE.get().is_some_and(|mode| has(*mode))
}

/// Whether this CPU has a mode. If so, notes how many VMIDs it has.
fn has(mode: Mode) -> bool {
    write!("hgatp", hgatp(mode, u16::MAX, Mfn(0)));
    let now = read!("hgatp");
    write!("hgatp", 0);
    forget_guests();
    let there = now >> 60 == mode.number();
    if there {
        VMID_BITS.fetch_min((now >> 44 & 0x3fff).count_ones(), Relaxed);
    }
    there
}

/// Numbers of domains that the TLBs of all CPUs tell apart are below this.
pub fn vmids() -> u32 {
    1 << VMID_BITS.load(Relaxed).min(14)
}

/// Drops every translation of guests that this CPU has.
pub fn forget_guests() {
    // SAFETY: drops cached translations only.
    unsafe {
        asm!(
            ".option push",
            ".option arch, +h",
            "hfence.gvma",
            "hfence.vvma",
            ".option pop",
            options(nostack, preserves_flags)
        );
    }
}

/// Drops what this CPU has of the present domain's own translation, for all address spaces of it.
pub fn forget_guest_virtual() {
    // SAFETY: drops cached translations only.
    unsafe {
        asm!(
            ".option push",
            ".option arch, +h",
            "hfence.vvma",
            ".option pop",
            "fence.i",
            options(nostack, preserves_flags)
        );
    }
}
