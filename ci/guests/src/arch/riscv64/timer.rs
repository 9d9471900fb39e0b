//! The timer of each CPU, by the SBI; with the word `timer=stimecmp` by the CPU's own compare register, where the device
//! tree says that it has one (extension Sstc).

use core::arch::asm;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::{sbi, trap};
use crate::bootargs;

static HERTZ: AtomicU64 = AtomicU64::new(0);
static HAS_SSTC: AtomicU32 = AtomicU32::new(0);
static BY_STIMECMP: AtomicU32 = AtomicU32::new(0);

/// The time as this guest sees it.
pub fn now() -> u64 {
    let ticks: u64;
    // SAFETY: reads the counter, not ahead of what comes before.
    unsafe { asm!("fence", "rdtime {}", out(reg) ticks) };
    ticks
}

/// Executes so many turns of a loop of two instructions.
pub fn turns(turns: u64) {
    // SAFETY: counts down.
    unsafe {
        asm!("2: addi {0}, {0}, -1", "bnez {0}, 2b", inout(reg) turns => _, options(nomem, nostack))
    };
}

/// Counter frequency.
pub fn ticks_per_second() -> u64 {
    HERTZ.load(Ordering::Relaxed)
}

/// Whether the device tree says that the CPU has a compare register of its own.
pub fn has_sstc() -> bool {
    HAS_SSTC.load(Ordering::Relaxed) != 0
}

/// Has `handler` called on this CPU when its timer fires.
pub fn on_timer(handler: fn(u32)) {
    trap::on_cause(trap::interrupt::TIMER, handler);
}

/// Arms this CPU's timer for `at` (counter ticks).
pub fn timer_at(at: u64) {
    if BY_STIMECMP.load(Ordering::Relaxed) != 0 {
        set_stimecmp(at);
    } else {
        timer_at_by_sbi(at);
    }
}

/// Arms this CPU's timer by the call.
pub fn timer_at_by_sbi(at: u64) {
    sbi::call(sbi::extension::TIME, 0, [at, 0, 0, 0, 0]);
}

/// Arms this CPU's timer by its own register.
pub fn set_stimecmp(at: u64) {
    // SAFETY: the timer's compare value.
    unsafe { asm!("csrw 0x14d, {}", in(reg) at, options(nostack)) };
}

/// Disarms this CPU's timer.
pub fn timer_off() {
    timer_at(u64::MAX);
}

pub(super) fn init(fdt: &fdt::Fdt) {
    let cpus = fdt.find_node("/cpus");
    let hertz = cpus.and_then(|node| node.property("timebase-frequency")?.as_usize());
    HERTZ.store(hertz.unwrap_or(1) as u64, Ordering::Relaxed);
    let sstc = fdt.cpus().any(|cpu| {
        let isa = cpu.property("riscv,isa").and_then(|isa| isa.as_str());
        isa.is_some_and(|isa| isa.split('_').any(|part| part == "sstc"))
    });
    HAS_SSTC.store(u32::from(sstc), Ordering::Relaxed);
    let by_register = sstc && bootargs::word("timer") == Some("stimecmp");
    BY_STIMECMP.store(u32::from(by_register), Ordering::Relaxed);
    timer_off();
}
