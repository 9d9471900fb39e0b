//! A physical CPU's life: run the vCPU that the scheduler chose, serve its exits, switch, idle.

use core::sync::atomic::Ordering::Relaxed;

use x86_64::instructions::interrupts;
use xenolith_core::{VcpuRef, sched::Work};
use xenolith_hal::Hal;

use super::{errand, machine_check, nmi, percpu::PerCpu};
use crate::{
    X86_64, apic,
    guest::{
        backend::Backend,
        exit::{self, Context},
        interrupts as virtual_interrupts, time,
    },
    pv,
    speculation::apply as speculation,
};

/// As [`run`], on another stack; the present one is forgotten.
pub fn run_on<B: Backend>(stack_top: u64, cpu: &'static PerCpu) -> ! {
    extern "C" fn go<B: Backend>(cpu: &'static PerCpu) -> ! {
        run::<B>(cpu)
    }
    // SAFETY: `stack_top` is the top of a mapped stack that nobody else uses; nothing on the old stack is used again.
    unsafe {
        core::arch::asm!(
            "mov rsp, {stack}",
            "xor ebp, ebp",
            "push rbp",
            "jmp {go}",
            stack = in(reg) stack_top,
            in("rdi") cpu,
            go = sym go::<B>,
            options(noreturn),
        );
    }
}

/// Runs vCPUs on this CPU for ever.
pub fn run<B: Backend>(cpu: &'static PerCpu) -> ! {
    loop {
        let next = cpu.hv.schedule(cpu.id);
        switch::<B>(cpu, next.as_ref());
        match next {
            Some(vcpu) => match vcpu.arch.pv() {
                Some(pv) => pv::run::run_vcpu(cpu, &vcpu, pv),
                None => run_vcpu::<B>(cpu, &vcpu),
            },
            None => idle(cpu),
        }
    }
}

/// Sleeps until there is work.
pub fn idle(cpu: &'static PerCpu) {
    loop {
        serve_work(cpu);
        if cpu.work.load(Relaxed) & Work::RESCHEDULE.bits() != 0 {
            return;
        }
        apic::look_again();
        // Interrupts open with the instruction that sleeps: one that comes before it ends the sleep at once.
        interrupts::enable_and_hlt();
        interrupts::disable();
    }
}

/// Takes the interrupts that wait for this CPU. No lock is held.
#[inline(always)]
pub fn open_interrupts() {
    interrupts::enable();
    x86_64::instructions::nop();
    interrupts::disable();
}

/// Does what waits for this CPU, but for another vCPU's turn.
#[inline(never)]
pub fn serve_work(cpu: &'static PerCpu) {
    if pv::flush::answer_work(cpu) {
        errand::serve();
        nmi::deliver(cpu);
    }
    if cpu.work.load(Relaxed) & Work::TIMER.bits() != 0 {
        cpu.hv.timer_interrupt(cpu.id);
        machine_check::poll(cpu, cpu.hv.hal.now());
    }
}

fn run_vcpu<B: Backend>(cpu: &'static PerCpu, vcpu: &VcpuRef<X86_64>) {
    let regs = vcpu.arch.regs_ptr();
    let translations = vcpu.arch.translations_ptr();
    loop {
        if cpu.work.load(Relaxed) != 0 {
            serve_work(cpu);
            if cpu.work.load(Relaxed) & Work::RESCHEDULE.bits() != 0 {
                return;
            }
        }
        {
            // SAFETY: the vCPU is loaded on this CPU and not running: its state and registers are this CPU's, and these
            // are the only references until the block ends.
            let (regs, hw) = unsafe { (&mut *regs, &mut *B::hardware(&vcpu.arch)) };
            let cx = &mut Context {
                cpu,
                vcpu,
                regs,
                hw,
            };
            if !virtual_interrupts::before_entry(cx) {
                continue;
            }
        }
        // SAFETY: as above, and the references are gone.
        unsafe { B::enter(cpu, vcpu, regs) };
        // SAFETY: the guest has stopped, and nobody else looks at it now.
        unsafe { (*translations).next_exit() };
        // SAFETY: the guest has stopped; until the next entry these are the only references.
        let (regs, hw) = unsafe { (&mut *regs, &mut *B::hardware(&vcpu.arch)) };
        exit::serve(&mut Context {
            cpu,
            vcpu,
            regs,
            hw,
        });
    }
}

/// Makes `next` the vCPU whose context this CPU holds.
fn switch<B: Backend>(cpu: &'static PerCpu, next: Option<&VcpuRef<X86_64>>) {
    let mut loaded = cpu.loaded.borrow_mut();
    if loaded.as_ref() == next {
        return;
    }
    if let Some(old) = loaded.take() {
        // Looked up once.
        let arch = &old.arch;
        let pv = arch.pv();
        if pv.is_some() {
            pv::switch::set_task_switched(false);
        }
        // SAFETY: the vCPU is loaded on this CPU and not running, so its cells are this CPU's to use.
        unsafe { (*arch.fpu_ptr()).save() };
        match pv {
            Some(pv) => pv::switch::save(cpu, pv),
            None => {
                arch.debug_save();
                B::save(cpu, &old);
            }
        }
        // An address space may go as soon as nobody is said to run in it.
        pv::switch::change_space(cpu, Some(&old), next);
        cpu.hv.context_saved(&old);
    } else {
        pv::switch::change_space(cpu, None, next);
    }
    if let Some(new) = next {
        let domain = new.domain().id();
        if cpu.last.replace(Some(domain)) != Some(domain) {
            speculation::between_domains();
        }
        let arch = &new.arch;
        let pv = arch.pv();
        match pv {
            Some(_) => B::rest(cpu),
            None => {
                cpu.takes_system_calls.set(false);
                B::load(cpu, new);
            }
        }
        // SAFETY: the scheduler gave the vCPU to this CPU alone.
        unsafe { (*arch.fpu_ptr()).load() };
        match pv {
            Some(pv) => pv::switch::load(cpu, new, pv),
            None => arch.debug_load(),
        }
        time::update(cpu.hv, new);
        *loaded = Some(new.clone());
    } else {
        B::rest(cpu);
    }
}
