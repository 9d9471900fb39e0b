//! What only RISC-V has: the SBI's calls, trapped registers, the PLIC's registers, injected faults.

use xenolith_guests::arch::{self, plic, sbi};
use xenolith_guests::count::instructions;
use xenolith_guests::report::{self, value};

use super::{LOOPS, measure as time, shift_in_tick};

/// A guest-physical address in a hole of the board's map.
const NOTHING: u64 = 0x1f00_0000;

pub(super) fn measure() {
    time("sbi_version", || {
        sbi::call(sbi::extension::BASE, sbi::base::SPEC_VERSION, [0; 5]);
    });
    time("sbi_unknown", || {
        sbi::call(sbi::extension::FIRMWARE + 99, 0, [0; 5]);
    });
    let far = arch::now() + 3600 * arch::ticks_per_second();
    time("sbi_set_timer", || arch::timer_at_by_sbi(far));
    if arch::has_sstc() {
        time("stimecmp_write", || arch::set_stimecmp(far));
    }
    arch::timer_off();
    time("sbi_send_ipi", || arch::ipi_send(0));
    arch::clear_software();
    time("sbi_remote_fence", || {
        let own = [1, arch::hart_of(0), 0, 4096, 0];
        sbi::call(sbi::extension::RFENCE, sbi::rfence::SFENCE_VMA, own);
    });
    let priority = plic::register(plic::reg::PRIORITY + 4);
    time("plic_priority_read", || {
        arch::read32(priority);
    });
    let enable = plic::enable_word(0, 1);
    let own = arch::read32(enable);
    time("plic_enable_write", || arch::write32(enable, own));
    time("plic_claim_of_nothing", || {
        plic::claim();
    });
    injected_fault();
}

/// From a load of nothing to the vector that takes the fault.
fn injected_fault() {
    const NAME: &str = "injected_fault";
    if !report::is_wanted(NAME) {
        return;
    }
    let mut total = 0;
    for round in 0..LOOPS {
        shift_in_tick(round);
        let start = arch::now();
        arch::fault_of(|| {
            arch::read32(NOTHING);
        });
        total += arch::entry_stamp() - start;
    }
    value(NAME, (instructions(total) / LOOPS) as i64);
}
