//! Tests several CPUs: starting and stopping them, interrupts between them, a timer and events on each.
//! With one CPU only the cases of the interrupt controller and of the firmware interface run.
#![no_std]
#![no_main]

use xenolith_guests::report::Report;
use xenolith_guests::{arch, guest};

mod cpu;
mod events;
mod ipi;
mod runstate;
mod timer;

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
    let mut report = Report::begin("smp");
    ipi::prepare();
    report.cases(special::FIRMWARE);
    report.cases(special::CONTROLLER);
    report.cases(timer::ALONE);
    if arch::cpu_count() > 1 {
        report.cases(cpu::CASES);
        report.cases(special::RUNNING);
        #[cfg(pv)]
        special::TOGETHER
            .iter()
            .for_each(|cases| report.cases(cases));
        report.cases(ipi::CASES);
        report.cases(timer::CASES);
        report.cases(events::CASES);
        report.cases(runstate::CASES);
        report.cases(cpu::LAST);
    }
    report.finish()
}
