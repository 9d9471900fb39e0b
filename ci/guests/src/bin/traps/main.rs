//! Tests what a guest does that the hypervisor must catch: system registers that it hides or does not
//! know, accesses to nothing, odd accesses to emulated devices, SMC and HVC with odd numbers, WFI and WFE.
//! On RISC-V the word `fault=` names what it ends by (`riscv64/last.rs`).
//! Each architecture has its own cases; this guest has none that is common.
#![no_std]
#![no_main]

use xenolith_guests::guest;
use xenolith_guests::report::Report;

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

fn main() {
    let mut report = Report::begin("traps");
    for table in special::TABLES {
        report.cases(table);
    }
    report.finish()
}
