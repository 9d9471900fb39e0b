//! A device of the machine in the guest's hands: the clock of QEMU's boards, `google,goldfish-rtc` (its registers: the platform
//! bus documents of the Goldfish machine). Its alarm interrupts through the machine's controller and the guest's.

use core::sync::atomic::{AtomicU64, Ordering};

use xenolith_guests::arch::{self, Access, plic};
use xenolith_guests::cpus::wait_for;
use xenolith_guests::report::value;
use xenolith_guests::{ensure, expect};

use super::{Case, Outcome};

pub(crate) const CASES: &[Case] = &[
    ("clock.runs", runs),
    ("clock.its_alarm_interrupts_each_time", alarms),
];

const TIME_LOW: u64 = 0x00;
const TIME_HIGH: u64 = 0x04;
const ALARM_LOW: u64 = 0x08;
const ALARM_HIGH: u64 = 0x0c;
const ENABLED: u64 = 0x10;
const CLEAR_INTERRUPT: u64 = 0x1c;

static AT: AtomicU64 = AtomicU64::new(0);
static CAME: AtomicU64 = AtomicU64::new(0);

/// Its registers and its source, if this guest has it.
fn clock() -> Option<(u64, u32)> {
    let tree = arch::device_tree();
    let node = tree.find_compatible(&["google,goldfish-rtc"])?;
    let at = node.reg()?.next()?.starting_address as u64;
    let source = node.property("interrupts")?.as_usize()? as u32;
    Some((arch::map_page(0, at, Access::ReadWrite), source))
}

fn runs() -> Outcome {
    let Some((at, source)) = clock() else {
        value("clock.source", 0);
        return Ok(());
    };
    value("clock.source", i64::from(source));
    let now =
        || u64::from(arch::read32(at + TIME_LOW)) | u64::from(arch::read32(at + TIME_HIGH)) << 32;
    let before = now();
    ensure!(wait_for(|| now() > before), "it stands still");
    Ok(())
}

fn came(_: u32) {
    CAME.fetch_add(1, Ordering::SeqCst);
    arch::write32(AT.load(Ordering::SeqCst) + CLEAR_INTERRUPT, 1);
}

fn alarms() -> Outcome {
    const TIMES: u64 = 20;
    let Some((at, source)) = clock() else {
        return Ok(());
    };
    AT.store(at, Ordering::SeqCst);
    plic::on_source(source, came);
    arch::write32(at + ENABLED, 1);
    arch::irq_on();
    for turn in 0..TIMES {
        // An alarm in the past comes at once.
        arch::write32(at + ALARM_HIGH, 0);
        arch::write32(at + ALARM_LOW, 1);
        if !wait_for(|| CAME.load(Ordering::SeqCst) > turn) {
            break;
        }
    }
    arch::irq_off();
    arch::write32(at + ENABLED, 0);
    plic::disable(0, source);
    expect!(CAME.load(Ordering::SeqCst), TIMES, "alarms");
    Ok(())
}
