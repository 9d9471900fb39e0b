//! Remote fences: what one CPU changed in tables and code, the others see after the call.
#![allow(unsafe_code)] // One case runs bytes that are no function.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

use xenolith_guests::arch::sbi::{self, extension, rfence};
use xenolith_guests::arch::{self, Access, MAX_CPUS};
use xenolith_guests::buffer::Page;
use xenolith_guests::report::Outcome;
use xenolith_guests::{cpus, ensure, expect};

use super::Case;

pub(crate) const MAPPINGS: Case = ("fences.of_mappings", mappings);
pub(crate) const INSTRUCTIONS: Case = ("fences.of_instructions", instructions);

/// Each form of the call once: an emulator that runs the CPUs in turn takes a tenth of a second for one.
const ROUNDS: u64 = 4;
const SLOT: usize = 3;
static AT: AtomicU64 = AtomicU64::new(0);
static SEEN: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];

/// Has each other CPU run `work`, which leaves what it saw in `SEEN`; expects `wanted` of all.
fn all_see(work: fn(usize), wanted: u64) -> Outcome {
    for index in cpus::others() {
        ensure!(cpus::run(index, work), "cpu {index} hangs");
        let seen = SEEN[index].load(Ordering::SeqCst);
        expect!(seen, wanted, "cpu {index}");
    }
    Ok(())
}

/// The page under an address changes, again and again; the fence is asked for in another form each time.
fn mappings() -> Outcome {
    const SIZE: u64 = 4096;
    let pages = [Page::take(), Page::take()];
    for (number, page) in (1u64..).zip(pages) {
        page.write(0, number);
    }
    for round in 0..ROUNDS {
        let page = pages[round as usize % 2];
        let at = arch::map_page_here(SLOT, page.address(), Access::ReadWrite);
        AT.store(at, Ordering::SeqCst);
        let (function, start, size) = match round % 4 {
            0 => (rfence::SFENCE_VMA, at, SIZE),
            1 => (rfence::SFENCE_VMA, 0, 0),
            2 => (rfence::SFENCE_VMA_ASID, at, SIZE),
            _ => (rfence::SFENCE_VMA, 0, u64::MAX),
        };
        let others = cpus::others().fold(0, |mask, index| mask | 1 << arch::hart_of(index));
        let answer = sbi::call(extension::RFENCE, function, [others, 0, start, size, 0]);
        expect!(answer.error, 0, "function {function}");
        let read: fn(usize) = |own| {
            let got = arch::read64(AT.load(Ordering::SeqCst));
            SEEN[own].store(got, Ordering::SeqCst);
        };
        all_see(read, round % 2 + 1)?;
    }
    arch::unmap_page(SLOT);
    Ok(())
}

/// A function that gives another number each time.
fn instructions() -> Outcome {
    // LI a0, n; RET.
    let code = |number: u32| u64::from(number << 20 | 0x513) | 0x8067 << 32;
    let page = Page::take();
    page.write(0, code(0));
    let at = arch::map_page(SLOT, page.address(), Access::Execute);
    AT.store(at, Ordering::SeqCst);
    for round in 1..=ROUNDS {
        page.write(0, code(round as u32));
        let everybody = [0, u64::MAX, 0, 0, 0];
        let answer = sbi::call(extension::RFENCE, rfence::FENCE_I, everybody);
        expect!(answer.error, 0);
        let run: fn(usize) = |own| {
            let got: u64;
            let at = AT.load(Ordering::SeqCst);
            // SAFETY: the function gives a number in a0.
            unsafe { asm!("jalr {}", in(reg) at, out("a0") got, clobber_abi("C")) };
            SEEN[own].store(got, Ordering::SeqCst);
        };
        all_see(run, round)?;
    }
    arch::unmap_page(SLOT);
    Ok(())
}
