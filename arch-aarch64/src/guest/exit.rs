//! What a guest wants when it stops, and who gives it.

use core::sync::atomic::Ordering::Relaxed;

use xenolith_core::{
    Hypervisor, VcpuRef,
    guest::Caller,
    hypercall::{self, Outcome},
};

use super::{
    esr::Exit,
    fp, inject, mmio, psci,
    regs::{GuestRegs, PSTATE_IRQ_MASKED},
    stage2_fault::{self, Tried},
    sysreg,
};
use crate::{
    Aarch64,
    cpu::{
        errata::{self, Workaround},
        percpu::PerCpu,
        regs::{read, write},
    },
};

/// The immediate of `hvc` that makes a hypercall (`public/arch-arm.h`).
const HYPERCALL_TAG: u16 = xenolith_abi::arm::HYPERCALL_TAG;

/// An exit being served: the CPU, the vCPU that it runs, and that vCPU's registers.
pub struct Context<'a> {
    /// The executing CPU.
    pub cpu: &'static PerCpu,
    /// The vCPU that stopped.
    pub vcpu: &'a VcpuRef<Aarch64>,
    /// Its registers.
    pub regs: &'a mut GuestRegs,
}

impl Context<'_> {
    /// The hypervisor.
    #[inline(always)]
    pub fn hv(&self) -> &'static Hypervisor<Aarch64> {
        self.cpu.hv
    }
}

/// Serves a synchronous exit.
#[inline(always)]
pub fn synchronous(cx: &mut Context<'_>) {
    match Exit::decode(read!("esr_el2")) {
        Exit::Hvc(HYPERCALL_TAG) => hypercall(cx),
        Exit::SysReg(access) => sysreg::access(cx, access),
        // Where stage 1 would have faulted, the guest runs the instruction again and takes that fault itself. It is a
        // guest's programs that this keeps from its devices; what a kernel maps for itself it may use.
        Exit::DataAbort(_)
            if cx.regs.is_el0()
                && errata::needs(Workaround::AskStage1)
                && stage1_faults(read!("far_el2")) => {}
        Exit::DataAbort(abort) => mmio::data_abort(cx, abort),
        Exit::Hvc(0) => psci::call(cx),
        Exit::Hvc(_) => inject::undefined(cx.regs),
        other => rare(cx, other),
    }
}

/// Whether the guest's own translation refuses the address, for reading as EL0.
#[cold]
fn stage1_faults(far: u64) -> bool {
    let saved = read!("par_el1");
    // SAFETY: address translation only writes PAR_EL1, which is restored below.
    unsafe {
        core::arch::asm!("at s1e0r, {}", "isb", in(reg) far, options(nostack, preserves_flags))
    };
    let result = read!("par_el1");
    write!("par_el1", saved);
    // F: a fault; S: it was one of stage 2, met by the walk, which the guest could only meet again.
    result & 1 != 0 && result & 1 << 9 == 0
}

/// Whether the instruction that trapped has 32 bits (ESR_EL2.IL).
fn is_long() -> bool {
    read!("esr_el2") >> 25 & 1 != 0
}

#[inline(never)]
fn rare(cx: &mut Context<'_>, exit: Exit) {
    match exit {
        Exit::Wfi => {
            cx.regs.skip_trapped(is_long());
            cx.hv().block(cx.vcpu);
        }
        Exit::Wfe => {
            cx.regs.skip_trapped(is_long());
            cx.hv().yield_now(cx.vcpu);
        }
        Exit::FpAccess => {
            fp::allow();
            // SAFETY: the vCPU is loaded on this CPU, so its cells are this CPU's to use.
            unsafe { (*cx.vcpu.arch.fp_ptr()).load() };
            cx.cpu.fp_in_use.set(true);
        }
        Exit::Smc(0) => {
            cx.regs.skip();
            psci::call(cx);
        }
        Exit::InstructionAbort { stage2, ipa_valid } => {
            let far = read!("far_el2");
            let gpa = stage2
                .then(|| stage2_fault::address(cx.vcpu, far, ipa_valid))
                .flatten();
            if gpa.is_some_and(|gpa| stage2_fault::is_over(cx.vcpu, far, gpa, Tried::Fetch)) {
                return;
            }
            log::debug!("{} fetched from {far:#x}, where nothing is", Name(cx.vcpu));
            inject::instruction_abort(cx.regs, far);
        }
        Exit::Other(class) => {
            log::debug!(
                "{}: exception class {class:#x} at {:#x}",
                Name(cx.vcpu),
                cx.regs.pc
            );
            inject::undefined(cx.regs);
        }
        _ => inject::undefined(cx.regs),
    }
}

#[inline(always)]
fn hypercall(cx: &mut Context<'_>) {
    let caller = Caller {
        hv: cx.hv(),
        vcpu: cx.vcpu,
    };
    let x = &cx.regs.x;
    let args = [x[0], x[1], x[2], x[3], x[4]];
    match hypercall::dispatch(caller, x[16], args) {
        Outcome::Done(value) => cx.regs.x[0] = value.cast_unsigned(),
        Outcome::Again(args) => {
            for (register, arg) in cx.regs.x.iter_mut().zip(args) {
                *register = arg;
            }
            cx.regs.repeat_hvc();
        }
    }
    if cx.vcpu.arch.take_interrupts.load(Relaxed) {
        take_interrupts(cx);
    }
}

/// The guest blocks "with events enabled": it takes interrupts when it goes on.
#[cold]
fn take_interrupts(cx: &mut Context<'_>) {
    cx.vcpu.arch.take_interrupts.store(false, Relaxed);
    cx.regs.pstate &= !PSTATE_IRQ_MASKED;
}

/// A vCPU as messages name it: `d0v1`.
pub struct Name<'a>(pub &'a VcpuRef<Aarch64>);

impl core::fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::write!(f, "d{}v{}", self.0.domain().id().0, self.0.id.0)
    }
}
