//! The other vCPUs' random calls, while the first makes its own.

use core::sync::atomic::{AtomicU64, Ordering};

use xenolith_guests::arch::{self, MAX_CPUS};
use xenolith_guests::buffer::{PAGE, Page};
use xenolith_guests::report::{Outcome, value};
use xenolith_guests::xen::own_domain;
use xenolith_guests::{bootargs, cpus, ensure};

use super::words::Words;
use super::{DEFAULT_SEED, choice, confine_pv};

/// Pages of arguments of each.
const PAGES: usize = 8;
/// Where in the test window those of the first of them are, behind all that other calls change.
const FIRST_SLOT: usize = 160;
/// From one's to the next one's: with a hole between, and beginning at a multiple of two pages.
const STRIDE: usize = PAGES + 2;

static STOP: AtomicU64 = AtomicU64::new(0);
static CALLS: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];

fn slot(index: usize) -> usize {
    FIRST_SLOT + index * STRIDE
}

fn work(index: usize) {
    arch::irq_off();
    let seed = bootargs::number("seed", DEFAULT_SEED).wrapping_add(index as u64 * 0x9e37_79b9);
    let buffers = Page::at(arch::WINDOW + slot(index) as u64 * PAGE);
    let list = Page::take();
    let mut words = Words::new(seed, buffers, PAGES as u64, own_domain());
    while STOP.load(Ordering::SeqCst) == 0 {
        let call = choice::next(&mut words, list);
        arch::hypercall(call.number, call.args);
        CALLS[index].fetch_add(1, Ordering::Relaxed);
    }
    confine_pv::restore_on(index);
    arch::irq_on();
}

/// Sets the others to work.
pub(crate) fn begin() {
    for index in cpus::others() {
        let pages = Page::take_many(PAGES);
        for page in 0..PAGES {
            let address = pages.after(page as u64).address();
            arch::map_page(slot(index) + page, address, arch::Access::ReadWrite);
        }
        if cpus::start(index) == (0, true) {
            cpus::begin(index, work);
        }
    }
}

/// Has them end.
pub(crate) fn end() -> Outcome {
    STOP.store(1, Ordering::SeqCst);
    for index in cpus::others() {
        ensure!(cpus::wait_for(|| cpus::is_idle(index)), "cpu {index} hangs");
        let calls = CALLS[index].load(Ordering::Relaxed);
        value(format_args!("fuzz.calls_of_cpu_{index}"), calls as i64);
        ensure!(cpus::stop(index), "cpu {index} does not stop");
    }
    Ok(())
}
