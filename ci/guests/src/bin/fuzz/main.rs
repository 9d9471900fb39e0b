//! Calls the hypervisor with random numbers, sub-ops and arguments, and expects to live on.
//!
//! Words of the command line: `seed=` (any number; the same seed gives the same calls), `calls=`
//! (default 1,000,000), `trace=N` (prints every call from the Nth on). A PV guest with several vCPUs calls on all of them at once,
//! each with its own pages for arguments and all with the same frames.
//!
//! The guest must survive its own calls, so what they may name is confined (`words`):
//! - pointers lead into 16 sacrificial pages in a window of their own, with nothing mapped behind
//!   it, or nowhere; an argument array that runs on ends there;
//! - frame numbers and physical addresses are those of a sacrificial range of RAM above the image,
//!   or of nothing; no word, and no half of one, names the image or the 256 MiB below it.
//!
//! Left out (`choice`) are calls that by definition end the domain, block it for ever or rebuild the
//! machine: shutdown in its three forms, taking the vCPU down, block, poll and watchdog,
//! PCI devices that come and go (kept with bad pointers), and control calls that carry
//! the right interface version. Console output is kept with bad pointers or no bytes.
#![no_std]
#![no_main]

use xenolith_guests::buffer::Page;
use xenolith_guests::report::{Outcome, Report, value};
use xenolith_guests::xen::{nr, own_domain};
use xenolith_guests::{arch, bootargs, console, ensure, expect, guest};

mod choice;
#[cfg(pv)]
mod confine_pv;
#[cfg(target_arch = "riscv64")]
#[path = "riscv64.rs"]
mod special;
#[cfg(all(target_arch = "x86_64", not(pv)))]
#[path = "x86_64.rs"]
mod special;
#[cfg(all(target_arch = "x86_64", pv))]
#[path = "pv.rs"]
mod special;
#[cfg(pv)]
mod together;
#[cfg(pv)]
mod ways_in;
mod words;

use words::Words;

guest!(main);

const BUFFER_PAGES: usize = 16;
const DEFAULT_CALLS: u64 = 1_000_000;
const DEFAULT_SEED: u64 = 0x2545_f491_4f6c_dd1d;
const PROGRESS_LINES: u64 = 10;

fn main() {
    let mut report = Report::begin("fuzz");
    report.case("fuzz.lives_through_all_calls", all_calls);
    report.case("fuzz.hypervisor_still_answers", still_answers);
    #[cfg(pv)]
    report.cases(ways_in::CASES);
    #[cfg(any(target_arch = "riscv64", target_arch = "x86_64"))]
    report.cases(special::CASES);
    report.finish()
}

/// The sacrificial pages, mapped one after the other with a hole behind; gives where.
fn buffers() -> Page {
    let pages = Page::take_many(BUFFER_PAGES);
    for slot in 0..BUFFER_PAGES {
        arch::map_page(
            slot,
            pages.after(slot as u64).address(),
            arch::Access::ReadWrite,
        );
    }
    arch::unmap_page(BUFFER_PAGES);
    Page::at(arch::WINDOW)
}

fn all_calls() -> Outcome {
    let seed = bootargs::number("seed", DEFAULT_SEED);
    let calls = bootargs::number("calls", DEFAULT_CALLS);
    let trace = bootargs::number("trace", u64::MAX);
    value("fuzz.seed", seed as i64);
    let list = Page::take();
    let mut words = Words::new(seed, buffers(), BUFFER_PAGES as u64, own_domain());
    let before = checksum();
    #[cfg(pv)]
    together::begin();
    let (mut done, mut refused) = (0u64, 0u64);
    for index in 0..calls {
        let call = choice::next(&mut words, list);
        if index >= trace {
            console::line(format_args!("[guest] call {index} {call:x?}"));
            for entry in 0..choice::entries(&call, list) {
                let words: [u64; 8] = list.read(entry * 64);
                console::line(format_args!("[guest]   entry {words:x?}"));
            }
        }
        let answer = arch::hypercall(call.number, call.args);
        if answer < 0 {
            refused += 1
        } else {
            done += 1
        }
        if (index + 1) % (calls / PROGRESS_LINES).max(1) == 0 {
            value("fuzz.calls", index as i64 + 1);
        }
    }
    #[cfg(pv)]
    together::end()?;
    #[cfg(pv)]
    confine_pv::restore();
    value("fuzz.done", done as i64);
    value("fuzz.refused", refused as i64);
    expect!(checksum(), before, "checksum of the guest's own code");
    Ok(())
}

/// Over the image's code and constants, which no call may change.
fn checksum() -> u64 {
    let code = arch::code();
    (code.start..code.end)
        .step_by(8)
        .fold(0, |sum: u64, address| {
            sum.rotate_left(1).wrapping_add(arch::read64(address))
        })
}

fn still_answers() -> Outcome {
    ensure!(arch::hypercall(nr::XEN_VERSION, [0; 5]) >> 16 == 4);
    Ok(())
}
