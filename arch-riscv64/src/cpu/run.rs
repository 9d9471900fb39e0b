//! A hart's life: run the vCPU that the scheduler chose, serve its exits, switch, idle.

use core::sync::atomic::Ordering::Relaxed;

use xenolith_arch_common::refill_reserve;
use xenolith_core::{VcpuRef, sched::Work, timer::VcpuTimer};
use xenolith_hal::ArchTimer;

use super::{
    percpu::PerCpu,
    regs::{self, read, write},
    world,
};
use crate::{
    Riscv64,
    guest::{
        exit,
        interrupts::{self, EVENTS_ELSEWHERE, EXTERNAL, SOFTWARE, TIMER},
        regs::FS,
    },
    mm::fences,
    sbi, timer,
};

/// Exceptions that are a guest's own: misaligned fetches, breakpoints, misaligned accesses, calls of VU-mode, page faults, and
/// accesses to what firmware keeps. An illegal instruction is not: it may be the first of floating point.
const EXCEPTIONS_OF_GUESTS: u64 = 1 << 0
    | 1 << 1
    | 1 << 3
    | 1 << 4
    | 1 << 5
    | 1 << 6
    | 1 << 7
    | 1 << 8
    | 1 << 12
    | 1 << 13
    | 1 << 15;

/// Sets what never changes while guests run.
pub fn init() {
    write!("hedeleg", EXCEPTIONS_OF_GUESTS);
    write!("hideleg", SOFTWARE | TIMER | EXTERNAL);
    write!("hie", 0);
    write!("hvip", 0);
    write!("vsatp", 0);
    regs::clear!("sstatus", FS);
    timer::init_cpu();
}

/// As [`run`], on another stack; the present one is forgotten.
pub fn run_on(stack_top: u64, cpu: &'static PerCpu) -> ! {
    extern "C" fn go(cpu: &'static PerCpu) -> ! {
        run(cpu)
    }
    // SAFETY: `stack_top` is the top of a mapped stack that nobody else uses; nothing on the old stack is used again.
    unsafe {
        core::arch::asm!(
            "mv sp, {stack}",
            "mv ra, zero",
            "mv s0, zero",
            "tail {go}",
            stack = in(reg) stack_top,
            in("a0") cpu,
            go = sym go,
            options(noreturn),
        );
    }
}

/// Runs vCPUs on this CPU for ever.
pub fn run(cpu: &'static PerCpu) -> ! {
    loop {
        let next = cpu.hv.schedule(cpu.id);
        switch(cpu, next.as_ref());
        match next {
            Some(vcpu) => run_vcpu(cpu, &vcpu),
            None => idle(cpu),
        }
    }
}

/// Waits for work with interrupts masked: a pending one ends the wait and is served here.
fn idle(cpu: &'static PerCpu) {
    loop {
        serve_work(cpu);
        if cpu.work.load(Relaxed) & Work::RESCHEDULE.bits() != 0 {
            return;
        }
        refill_reserve();
        regs::wfi();
        interrupt(cpu);
    }
}

/// Takes what is pending of the hypervisor's own interrupts.
fn interrupt(cpu: &'static PerCpu) {
    let pending = read!("sip") & read!("sie");
    if pending & 1 << 1 != 0 {
        sbi::clear_kick();
    }
    if pending & 1 << 5 != 0 {
        timer_interrupt(cpu);
    }
    if pending & 1 << 9 != 0 {
        interrupts::external(cpu);
    }
}

/// The hypervisor's timer.
pub fn timer_interrupt(cpu: &'static PerCpu) {
    timer::fired();
    cpu.hv.timer_interrupt(cpu.id);
}

#[inline(never)]
fn serve_work(cpu: &'static PerCpu) {
    if cpu.work.load(Relaxed) & Work::TIMER.bits() != 0 {
        cpu.hv.timer_interrupt(cpu.id);
    }
    if cpu.work.load(Relaxed) & EVENTS_ELSEWHERE != 0 {
        interrupts::deliver_elsewhere(cpu);
    }
}

fn run_vcpu(cpu: &'static PerCpu, vcpu: &VcpuRef<Riscv64>) {
    // Looked up once: a vCPU is found by its number in its domain.
    let arch = &vcpu.arch;
    let regs = arch.regs_ptr();
    loop {
        if cpu.work.load(Relaxed) != 0 {
            serve_work(cpu);
            if cpu.work.load(Relaxed) & Work::RESCHEDULE.bits() != 0 {
                return;
            }
        }
        arch.waiting.put();
        // SAFETY: the vCPU is loaded on this CPU (`switch`), and its registers are borrowed by nobody here.
        let scause = unsafe { world::enter(regs) };
        // SAFETY: the guest has stopped; until the next entry this is the only use of its registers.
        let regs = unsafe { &mut *regs };
        exit::serve(
            exit::Context {
                cpu,
                vcpu,
                arch,
                regs,
            },
            scause,
        );
    }
}

/// Makes `next` the vCPU whose context this CPU holds.
fn switch(cpu: &'static PerCpu, next: Option<&VcpuRef<Riscv64>>) {
    let mut loaded = cpu.loaded.borrow_mut();
    if loaded.as_ref() == next {
        return;
    }
    if let Some(old) = loaded.take() {
        save(cpu, &old);
        cpu.hv.context_saved(&old);
    }
    if let Some(new) = next {
        load(cpu, new);
        *loaded = Some(new.clone());
    } else {
        write!("hgatp", 0);
    }
}

fn save(cpu: &'static PerCpu, vcpu: &VcpuRef<Riscv64>) {
    // SAFETY: the vCPU is loaded on this CPU and not running, so its cells are this CPU's to use.
    unsafe { (*vcpu.arch.context_ptr()).save() };
    write!("hvip", 0);
    // Not walked any more, and gone before another root of the G-stage comes ("Virtual Machine Address Translation").
    write!("vsatp", 0);
    if cpu.fp_in_use.replace(false) {
        // SAFETY: as above.
        unsafe {
            (*vcpu.arch.fp_ptr()).save();
            (*vcpu.arch.regs_ptr()).sstatus &= !FS;
        }
    }
    if timer::is_guests_own() {
        vcpu.arch
            .waiting
            .deadline
            .store(read!("vstimecmp"), Relaxed);
        write!("vstimecmp", u64::MAX);
        // Its deadline must be met while it waits.
        if let Some(at) = interrupts::deadline_of(&vcpu.domain().arch, &vcpu.arch) {
            cpu.hv.set_timer(vcpu, VcpuTimer::Arch(ArchTimer::A), at);
        }
    }
}

fn load(cpu: &'static PerCpu, vcpu: &VcpuRef<Riscv64>) {
    let (domain, arch) = (vcpu.domain(), &vcpu.arch);
    let tables = domain.p2m.memory();
    write!("hgatp", tables.hgatp(domain.p2m.root()));
    if tables.share_vmid() && cpu.shared_vmid.replace(Some(domain.id())) != Some(domain.id()) {
        fences::forget_guests();
    }
    write!("htimedelta", domain.arch.time_delta);
    // SAFETY: the scheduler gave the vCPU to this CPU alone, so its cells are this CPU's to use.
    unsafe { (*arch.context_ptr()).load() };
    if timer::is_guests_own() {
        cpu.hv.cancel_timer(vcpu, VcpuTimer::Arch(ArchTimer::A));
        write!("vstimecmp", arch.waiting.deadline.load(Relaxed));
    }
    arch.waiting.look_again();
    forget_others(cpu, vcpu);
}

/// A guest believes that each of its CPUs has a TLB of its own. Translations of another vCPU of the domain that ran here, and
/// what this one left before it ran elsewhere, are not its own any more.
fn forget_others(cpu: &'static PerCpu, vcpu: &VcpuRef<Riscv64>) {
    let here = cpu.id.0 + 1;
    let own = vcpu.arch.index as u16 + 1;
    let last_here = vcpu.domain().arch.last_loaded.get(cpu.id.index());
    let same_vcpu = last_here.is_some_and(|last| last.swap(own, Relaxed) == own);
    let same_cpu = vcpu.arch.last_cpu.swap(here, Relaxed) == here;
    if !(same_vcpu && same_cpu) {
        fences::forget_guest_virtual();
    }
}
