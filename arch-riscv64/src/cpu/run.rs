//! A hart's life: do what the scheduler's work word asks, sleep.

use core::sync::atomic::Ordering::SeqCst;

use xenolith_core::sched::Work;

use super::{percpu::PerCpu, regs};

/// Serves this CPU for ever. No guest exists yet, so the scheduler never has one to run.
pub fn run(cpu: &'static PerCpu) -> ! {
    loop {
        if cpu.work.load(SeqCst) & Work::RESCHEDULE.bits() != 0 {
            let next = cpu.hv.schedule(cpu.id);
            debug_assert!(next.is_none(), "a vCPU without a guest");
        }
        regs::wfi();
        crate::sbi::clear_kick();
    }
}
