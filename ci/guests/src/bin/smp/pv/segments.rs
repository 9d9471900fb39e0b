//! What each CPU has of its own though all share one address space: local descriptors, and the status of its breakpoints.

use core::arch::asm;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use xenolith_guests::arch::tables::{self, bit, entry_for, ext, mmuext};
use xenolith_guests::arch::{self, MAX_CPUS, WINDOW, exception, fault_of, hypercall};
use xenolith_guests::buffer::{PAGE, Page};
use xenolith_guests::report::Outcome;
use xenolith_guests::xen::nr;
use xenolith_guests::{cpus, ensure, expect};

use super::Case;

pub(crate) const CASES: &[Case] = &[
    ("segments.local_tables_with_holes_come_and_go", holes),
    ("debug.status_is_each_cpus_own", status),
];

const DATA: u64 = 0x00cf_f300_0000_ffff;
/// Pages of a CPU's table: the first and the last are there.
const PAGES: u64 = 3;
const ROUNDS: usize = 20;

/// What went wrong on a CPU, as the number of a step; 0: nothing.
static WRONG: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];

fn first_page(index: usize) -> u64 {
    16 + index as u64 * 8
}

/// Loads a selector of the local table; the fault that came of it.
fn load(index: u64) -> Option<(u64, u64)> {
    let selector = (index << 3) as u16 | 7;
    // SAFETY: es is used by nothing; a bad selector faults.
    fault_of(|| unsafe { asm!("mov es, {:x}", in(reg) selector, options(nostack)) })
        .map(|fault| (fault.vector, fault.error))
}

fn loaded() -> u16 {
    let selector: u16;
    // SAFETY: reads a register.
    unsafe { asm!("mov {:x}, es", out(reg) selector, options(nostack)) };
    selector
}

fn unload() {
    // SAFETY: es is used by nothing.
    unsafe { asm!("mov es, {:x}", in(reg) 0u16, options(nostack)) };
}

/// Lets another vCPU have the CPU, if one waits.
fn pass() {
    hypercall(nr::SCHED_OP, [0; 5]);
}

fn use_table(own: usize) {
    let base = WINDOW + first_page(own) * PAGE;
    for _ in 0..ROUNDS {
        let steps = [
            mmuext(ext::SET_LDT, base, PAGES * 512) == 0,
            load(1).is_none(),
            load(512 + 1) == Some((exception::PAGE, 0)),
            load(2 * 512 + own as u64).is_none(),
            load(2 * 512 + 100) == Some((exception::PROTECTION, (2 * 512 + 100) << 3 | 4)),
            load(3 * 512).is_some(),
            load(2 * 512 + own as u64).is_none(),
            {
                pass();
                loaded() == ((2 * 512 + own as u16) << 3 | 7)
            },
            load(512 + 1) == Some((exception::PAGE, 0)),
            {
                unload();
                mmuext(ext::SET_LDT, 0, 0) == 0
            },
            load(1).map(|fault| fault.0) == Some(exception::PROTECTION),
        ];
        if let Some(step) = steps.iter().position(|right| !right) {
            WRONG[own].store(step as u64 + 1, Ordering::SeqCst);
        }
        unload();
    }
}

fn holes() -> Outcome {
    let count = arch::cpu_count();
    let mut pages = [Page::at(0); MAX_CPUS * 2];
    for index in 0..count {
        for (place, number) in [(0, 1), (2, index as u64)] {
            let page = Page::take();
            page.fill(0);
            page.write::<u64>(number * 8, DATA);
            expect!(tables::make_read_only(page), 0);
            tables::set_entry(
                (first_page(index) + place) as usize,
                entry_for(page.frame(), bit::READ),
            );
            pages[index * 2 + place as usize / 2] = page;
        }
    }
    for index in cpus::others() {
        cpus::begin(index, use_table);
    }
    use_table(0);
    for index in cpus::others() {
        ensure!(cpus::wait_for(|| cpus::is_idle(index)), "cpu {index} hangs");
    }
    for (index, wrong) in WRONG.iter().enumerate().take(count) {
        expect!(wrong.load(Ordering::SeqCst), 0, "step on cpu {index}");
    }
    // Nobody holds them any more.
    for index in 0..count {
        for place in [0, 2] {
            tables::set_entry((first_page(index) + place) as usize, 0);
            let page = pages[index * 2 + place as usize / 2];
            expect!(tables::make_writable(page), 0, "a page of cpu {index}");
        }
    }
    Ok(())
}

static WATCHED: [AtomicU32; MAX_CPUS] = [const { AtomicU32::new(0) }; MAX_CPUS];
static STATUS: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];

fn set(register: u64, value: u64) -> i64 {
    hypercall(nr::SET_DEBUGREG, [register, value, 0, 0, 0])
}

/// The breakpoints that came.
fn came() -> u64 {
    hypercall(nr::GET_DEBUGREG, [6, 0, 0, 0, 0]) as u64 & 0xf
}

/// A breakpoint in the register that has the CPU's number less one, for writes of four bytes.
fn break_on_write(own: usize) {
    let register = own as u64 - 1;
    let watched = &WATCHED[own];
    let right = set(register, (&raw const *watched) as u64) == 0
        && set(7, 1 << (2 * register) | 0xd << (16 + 4 * register)) == 0;
    let fault = fault_of(|| watched.store(1, Ordering::SeqCst));
    let right = right && fault.map(|fault| fault.vector) == Some(exception::DEBUG);
    STATUS[own].store(if right { came() } else { 99 }, Ordering::SeqCst);
}

fn look_again(own: usize) {
    pass();
    STATUS[own].store(came(), Ordering::SeqCst);
    set(7, 0);
    set(own as u64 - 1, 0);
    set(6, 0);
}

fn status() -> Outcome {
    let watching = 1..arch::cpu_count().min(5);
    expect!(set(6, 0), 0);
    for index in watching.clone() {
        ensure!(cpus::run(index, break_on_write), "cpu {index} hangs");
        expect!(
            STATUS[index].load(Ordering::SeqCst),
            1 << (index - 1),
            "cpu {index}"
        );
        pass();
        expect!(came(), 0, "cpu 0 after cpu {index}");
    }
    for index in watching {
        ensure!(cpus::run(index, look_again), "cpu {index} hangs");
        expect!(
            STATUS[index].load(Ordering::SeqCst),
            1 << (index - 1),
            "cpu {index} later"
        );
    }
    expect!(came(), 0, "cpu 0");
    Ok(())
}
