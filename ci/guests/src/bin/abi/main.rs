//! Tests the Xen ABI from inside, one family of hypercalls a module. With `discover=1` on the command
//! line it prints instead how every number and sub-op answers a bad pointer, in the form of `survey`'s table. As a PV dom0,
//! with `beside=` and a domain's number, it maps that domain's frames.
#![no_std]
#![no_main]

use xenolith_guests::report::{Outcome, Report};
use xenolith_guests::{arch, bootargs, guest};

mod bad_pointers;
mod console;
mod event;
mod event_errors;
mod event_fifo;
mod event_upcall;
mod grant_copy;
mod grant_map;
mod grant_table;
mod hvm;
mod memory;
mod multicall;
mod physmap;
mod sched;
mod survey;
mod vcpu;
mod version;

#[cfg(target_arch = "aarch64")]
#[path = "aarch64/mod.rs"]
mod special;
#[cfg(target_arch = "riscv64")]
#[path = "riscv64/mod.rs"]
mod special;
#[cfg(all(target_arch = "x86_64", not(pv)))]
#[path = "x86_64/mod.rs"]
mod special;
#[cfg(all(target_arch = "x86_64", pv))]
#[path = "pv/mod.rs"]
mod special;

guest!(main);

/// A row of a module's table.
type Case = (&'static str, fn() -> Outcome);

fn main() {
    if bootargs::number("discover", 0) != 0 {
        survey::discover();
        return;
    }
    #[cfg(pv)]
    if bootargs::number("beside", 0) != 0 {
        let mut report = Report::begin("beside");
        report.cases(special::beside::CASES);
        report.finish()
    }
    let mut report = Report::begin("abi");
    for table in [
        version::CASES,
        console::CASES,
        event::CASES,
        event_upcall::CASES,
        event_errors::CASES,
        grant_table::CASES,
        grant_map::CASES,
        grant_copy::CASES,
        memory::CASES,
    ] {
        report.cases(table);
    }
    if arch::IS_TRANSLATED {
        report.cases(memory::TRANSLATED);
        report.cases(physmap::CASES);
        report.cases(multicall::TRANSLATED);
        report.cases(hvm::CASES);
    }
    report.cases(sched::CASES);
    for table in special::TABLES {
        report.cases(table);
    }
    for table in [
        vcpu::CASES,
        multicall::CASES,
        bad_pointers::CASES,
        survey::CASES,
    ] {
        report.cases(table);
    }
    report.cases(event_errors::LAST);
    report.cases(event_fifo::CASES);
    report.finish()
}
