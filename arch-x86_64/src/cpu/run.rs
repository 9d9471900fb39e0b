//! A physical CPU's life: do what the scheduler's work word asks, sleep.

use core::sync::atomic::Ordering::SeqCst;

use x86_64::instructions::interrupts;
use xenolith_core::sched::Work;

use super::percpu::PerCpu;

/// Serves this CPU for ever. No guest exists yet, so the scheduler never has one to run.
pub fn run(cpu: &'static PerCpu) -> ! {
    loop {
        if cpu.work.load(SeqCst) & Work::RESCHEDULE.bits() != 0 {
            let next = cpu.hv.schedule(cpu.id);
            debug_assert!(next.is_none(), "a vCPU without a guest");
        }
        // Interrupts open with the instruction that sleeps: one that comes before it ends the sleep at once.
        interrupts::enable_and_hlt();
        interrupts::disable();
    }
}
