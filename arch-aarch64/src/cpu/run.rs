//! A physical CPU's life: run the vCPU that the scheduler chose, serve its exits, switch, idle.

use core::sync::atomic::Ordering::Relaxed;

use xenolith_core::{VcpuRef, sched::Work, timer::VcpuTimer};
use xenolith_hal::ArchTimer;

use super::{
    percpu::PerCpu,
    regs::{isb, read, wfi, write},
    vectors::{self, Reason},
};
use crate::{
    Aarch64,
    guest::{exit, fp},
    irq, timer,
    vgic::VgicVcpu,
    with_gic,
};

/// HCR_EL2 while a guest runs: stage 2 on; interrupts and aborts to EL2; WFI, WFE, SMC, identification registers,
/// implementation-defined registers, LORegions and error records trapped; set/way invalidation also cleans; EL1 is
/// AArch64. Zero bits hide too: pointer authentication (APK, API), memory tagging (ATA), SCXTNUM (EnSCXT).
const HCR_GUEST: u64 = {
    const VM: u64 = 1 << 0;
    const SWIO: u64 = 1 << 1;
    const PTW: u64 = 1 << 2;
    const FMO: u64 = 1 << 3;
    const IMO: u64 = 1 << 4;
    const AMO: u64 = 1 << 5;
    const FB: u64 = 1 << 9;
    const BSU_INNER: u64 = 1 << 10;
    const TWI: u64 = 1 << 13;
    const TWE: u64 = 1 << 14;
    const TID3: u64 = 1 << 18;
    const TSC: u64 = 1 << 19;
    const TIDCP: u64 = 1 << 20;
    const TACR: u64 = 1 << 21;
    const RW: u64 = 1 << 31;
    const TLOR: u64 = 1 << 35;
    const TERR: u64 = 1 << 36;
    VM | SWIO
        | PTW
        | FMO
        | IMO
        | AMO
        | FB
        | BSU_INNER
        | TWI
        | TWE
        | TID3
        | TSC
        | TIDCP
        | TACR
        | RW
        | TLOR
        | TERR
};

/// MDCR_EL2: trace filter, statistical profiling, debug, OS lock and performance monitor registers trap.
const MDCR_GUEST: u64 = 1 << 19 | 1 << 14 | 1 << 11 | 1 << 10 | 1 << 9 | 1 << 6 | 1 << 5;

/// MDCR_EL2 for this CPU. HPMN must name all its counters: 0 is reserved on most CPUs.
fn mdcr() -> u64 {
    // ID_AA64DFR0_EL1.PMUVer: 0 is none, 15 one of another kind.
    match read!("id_aa64dfr0_el1") >> 8 & 0xf {
        0 | 0xf => MDCR_GUEST,
        _ => MDCR_GUEST | read!("pmcr_el0") >> 11 & 0x1f,
    }
}

/// HCRX_EL2, where there is one, is unknown at reset: all its extensions off. They are hidden from guests.
fn init_hcrx() {
    if read!("id_aa64mmfr1_el1") >> 40 & 0xf != 0 {
        write!("S3_4_C1_C2_2", 0); // HCRX_EL2
    }
}

/// HSTR_EL2: AArch32 system registers of coprocessor 15 that do not exist at EL0 need no trap.
const HSTR_GUEST: u64 = 0;

/// Sets what never changes while guests run.
pub fn init(vtcr: u64) {
    write!("hcr_el2", HCR_GUEST);
    init_hcrx();
    write!("mdcr_el2", mdcr());
    write!("hstr_el2", HSTR_GUEST);
    write!("vtcr_el2", vtcr);
    write!("vpidr_el2", read!("midr_el1"));
    fp::trap();
    timer::init_cpu();
    isb();
}

/// As [`run`], on another stack; the present one is forgotten.
pub fn run_on(stack_top: u64, cpu: &'static PerCpu) -> ! {
    extern "C" fn go(cpu: &'static PerCpu) -> ! {
        run(cpu)
    }
    // SAFETY: `stack_top` is the top of a mapped stack that nobody else uses; nothing on the old stack is used again.
    unsafe {
        core::arch::asm!(
            "mov sp, {stack}",
            "mov x29, xzr",
            "mov x30, xzr",
            "b {go}",
            stack = in(reg) stack_top,
            in("x0") cpu,
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
        xenolith_arch_common::refill_reserve();
        wfi();
        irq::physical(cpu, None);
    }
}

#[inline(never)]
fn serve_work(cpu: &'static PerCpu) {
    if cpu.work.load(Relaxed) & Work::TIMER.bits() != 0 {
        cpu.hv.timer_interrupt(cpu.id);
    }
}

fn run_vcpu(cpu: &'static PerCpu, vcpu: &VcpuRef<Aarch64>) {
    // Looked up once: a vCPU is found by its number in its domain.
    let arch = &vcpu.arch;
    let (regs, vgic) = (arch.regs_ptr(), &*arch.vgic);
    loop {
        if cpu.work.load(Relaxed) != 0 {
            serve_work(cpu);
            if cpu.work.load(Relaxed) & Work::RESCHEDULE.bits() != 0 {
                return;
            }
        }
        if vgic.needs_flush() && !place_waiting(vgic) {
            flush(vcpu);
        }
        // SAFETY: the vCPU is loaded on this CPU (`switch`), and its registers are borrowed by nobody here.
        match unsafe { vectors::enter(regs) } {
            Reason::SYNC => {
                // SAFETY: the guest has stopped; until the next entry this is the only use of its registers.
                let regs = unsafe { &mut *regs };
                exit::synchronous(exit::Context {
                    cpu,
                    vcpu,
                    arch,
                    regs,
                });
            }
            Reason::IRQ => irq::physical(cpu, Some(vcpu)),
            _ => system_error(vcpu),
        }
    }
}

/// Gives the vCPU the interrupts that wait for it, where that is simple.
#[inline(never)]
fn place_waiting(vgic: &VgicVcpu) -> bool {
    irq::gic().is_none_or(|gic| with_gic!(gic, |hw| vgic.place_waiting(hw)))
}

#[inline(never)]
fn flush(vcpu: &VcpuRef<Aarch64>) {
    let domain = vcpu.domain();
    if let Some(gic) = irq::gic() {
        with_gic!(gic, |hw| domain.arch.vgic.flush(
            hw,
            vcpu.arch.index,
            |other| irq::notify(domain, other)
        ));
    }
}

/// An asynchronous external abort while a guest ran: the guest's doing as far as anyone can tell.
#[inline(never)]
fn system_error(vcpu: &VcpuRef<Aarch64>) {
    log::error!(
        "{}: SError, ESR_EL2 {:#x}",
        exit::Name(vcpu),
        read!("esr_el2")
    );
    if let Some(cpu) = PerCpu::try_current() {
        let action = cpu
            .hv
            .crash(vcpu.domain(), format_args!("asynchronous external abort"));
        if let Some(action) = action {
            action.carry_out(&cpu.hv.hal);
        }
    }
}

/// Makes `next` the vCPU whose context this CPU holds.
fn switch(cpu: &'static PerCpu, next: Option<&VcpuRef<Aarch64>>) {
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
    }
}

fn save(cpu: &'static PerCpu, vcpu: &VcpuRef<Aarch64>) {
    // SAFETY: the vCPU is loaded on this CPU and not running, so its cells are this CPU's to use.
    let context = unsafe { &mut *vcpu.arch.context_ptr() };
    context.save();
    write!("cntv_ctl_el0", 0);
    if let Some(gic) = irq::gic() {
        with_gic!(gic, |hw| vcpu.arch.vgic.save(hw));
    }
    if cpu.fp_in_use.replace(false) {
        // SAFETY: as above.
        unsafe { (*vcpu.arch.fp_ptr()).save() };
        fp::trap();
    }
    // Enabled and not masked: its deadline must be met while it waits.
    if context.cntv_ctl & 3 == 1 {
        let deadline = context
            .cntv_cval
            .wrapping_add(vcpu.domain().arch.counter_offset);
        cpu.hv.set_timer(
            vcpu,
            VcpuTimer::Arch(ArchTimer::A),
            timer::nanos_at(deadline),
        );
    }
}

fn load(cpu: &'static PerCpu, vcpu: &VcpuRef<Aarch64>) {
    let domain = vcpu.domain();
    write!("vttbr_el2", domain.p2m.vttbr());
    write!("vmpidr_el2", vcpu.arch.vmpidr);
    write!("cntvoff_el2", domain.arch.counter_offset);
    // SAFETY: the scheduler gave the vCPU to this CPU alone, so its cells are this CPU's to use.
    unsafe { (*vcpu.arch.context_ptr()).load() };
    cpu.hv.cancel_timer(vcpu, VcpuTimer::Arch(ArchTimer::A));
    if let Some(gic) = irq::gic() {
        with_gic!(gic, |hw| vcpu.arch.vgic.load(hw, cpu.id));
    }
    isb();
}
