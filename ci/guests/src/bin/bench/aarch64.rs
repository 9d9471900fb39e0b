//! What only AArch64 has: PSCI, trapped registers, the GIC's registers, injected aborts.
#![allow(unsafe_code)]

use core::arch::asm;

use xenolith_guests::arch::{self, gic, psci, smccc};
use xenolith_guests::count::instructions;
use xenolith_guests::report::{self, value};

use super::{LOOPS, measure as time};

/// A guest-physical address in a hole of every board's map (below the 32-bit limit, device-mapped here).
const NOTHING: u64 = 0x3fff_f000;

pub(super) fn measure() {
    time("psci_version", || {
        smccc(psci::VERSION, 0, 0, 0);
    });
    time("trapped_id_register", || {
        // SAFETY: reads an ID register of group 3 (HCR_EL2.TID3 traps it).
        unsafe { asm!("mrs {}, id_aa64pfr0_el1", out(reg) _) };
    });
    time("gicd_typer_read", || {
        arch::read32(gic::dist(gic::gicd::TYPER));
    });
    if gic::version() == 3 {
        let waker = gic::redist(0, gic::gicr::WAKER);
        time("gicr_waker_read", || {
            arch::read32(waker);
        });
    }
    gic::set_priority(40, 0xa0);
    time("gicd_isenabler_write", || {
        arch::write32(gic::dist(gic::gicd::ISENABLER + 4), 1 << 8);
    });
    gic::set_bit(40, gic::gicd::ICENABLER);
    injected_abort();
}

/// From a load of nothing to the vector that takes the abort.
fn injected_abort() {
    const NAME: &str = "injected_abort";
    if !report::is_wanted(NAME) {
        return;
    }
    let mut total = 0;
    for _ in 0..LOOPS {
        let start = arch::now();
        arch::fault_of(|| {
            arch::read32(NOTHING);
        });
        total += arch::entry_stamp() - start;
    }
    value(NAME, (instructions(total) / LOOPS) as i64);
}
