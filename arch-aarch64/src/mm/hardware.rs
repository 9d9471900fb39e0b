//! Stage 2 tables in the machine's memory, and the TLBs that cache them.

use core::sync::atomic::{AtomicU64, Ordering};

use xenolith_hal::{Gfn, Mfn};

use super::{direct::Direct, stage2};
use crate::cpu::regs::{dsb_ish, dsb_ishst, isb, read, write};

/// The machine's own memory and TLBs.
#[derive(Clone, Copy, Default)]
pub struct Hardware;

/// Stage 2 as the hypervisor uses it.
pub type Stage2 = stage2::Stage2<Hardware>;

/// Above this many frames, dropping all of a domain's translations is cheaper than one by one.
const FLUSH_ALL_ABOVE: u64 = 32;

fn word(table: Mfn, index: usize) -> &'static AtomicU64 {
    let va = Direct::address(table.base()) + (index as u64 & 511) * 8;
    // SAFETY: stage 2 tables are frames of the direct map that the core gave for this use; accesses are atomic.
    unsafe { &*(va as *const AtomicU64) }
}

impl stage2::TableMemory for Hardware {
    #[inline]
    fn load(&self, table: Mfn, index: usize) -> u64 {
        word(table, index).load(Ordering::Acquire)
    }

    #[inline]
    fn store(&self, table: Mfn, index: usize, value: u64) {
        word(table, index).store(value, Ordering::Release);
        dsb_ishst();
    }

    fn flush(&self, vttbr: u64, gfn: Gfn, count: u64) {
        let loaded = read!("vttbr_el2");
        if loaded != vttbr {
            write!("vttbr_el2", vttbr);
            isb();
        }
        dsb_ish();
        if count > FLUSH_ALL_ABOVE {
            // SAFETY: drops cached guest translations only.
            unsafe { core::arch::asm!("tlbi vmalls12e1is", options(nostack, preserves_flags)) }
        } else {
            for i in 0..count {
                // SAFETY: drops cached guest translations only.
                unsafe {
                    core::arch::asm!("tlbi ipas2e1is, {}", in(reg) gfn.0 + i, options(nostack, preserves_flags));
                }
            }
            dsb_ish();
            // Stage 1 results that were combined with the old stage 2 ones.
            // SAFETY: drops cached guest translations only.
            unsafe { core::arch::asm!("tlbi vmalle1is", options(nostack, preserves_flags)) }
        }
        dsb_ish();
        isb();
        if loaded != vttbr {
            write!("vttbr_el2", loaded);
            isb();
        }
    }
}
