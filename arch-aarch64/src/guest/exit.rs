//! What a guest wants when it stops, and who gives it.

use core::sync::atomic::Ordering::Relaxed;

use xenolith_core::{
    Hypervisor, VcpuRef,
    guest::Caller,
    hypercall::{self, Outcome},
};

use super::{
    esr::{self, Exit},
    fp, inject, mmio, psci,
    regs::{GuestRegs, PSTATE_IRQ_MASKED},
    stage2_fault::{self, Tried},
    sysreg,
    told::Oddity,
    vcpu::ArchVcpu,
};
use crate::{
    Aarch64,
    cpu::{percpu::PerCpu, regs::read},
};

/// The syndrome of a hypercall: its `hvc` has an immediate of its own (`public/arch-arm.h`).
const HYPERCALL: u64 = esr::hvc(xenolith_abi::arm::HYPERCALL_TAG);

/// An exit being served: the CPU, the vCPU that it runs, and that vCPU's registers. Passed on by value, so that it stays
/// in registers where nothing out of line is called.
pub struct Context<'a> {
    /// The executing CPU.
    pub cpu: &'static PerCpu,
    /// The vCPU that stopped.
    pub vcpu: &'a VcpuRef<Aarch64>,
    /// The architecture's part of that vCPU.
    pub arch: &'a ArchVcpu,
    /// Its registers.
    pub regs: &'a mut GuestRegs,
}

impl Context<'_> {
    /// The hypervisor.
    #[inline(always)]
    pub fn hv(&self) -> &'static Hypervisor<Aarch64> {
        self.cpu.hv
    }

    /// Whether the guest's domain does this for the first time, so that it is logged.
    pub fn is_new(&self, oddity: Oddity) -> bool {
        self.vcpu.domain().arch.told.first(oddity)
    }
}

/// Serves a synchronous exit.
#[inline(always)]
pub fn synchronous(cx: Context<'_>) {
    let esr = read!("esr_el2");
    if esr == HYPERCALL {
        return hypercall(cx);
    }
    match Exit::decode(esr) {
        Exit::SysReg(access) => sysreg::access(cx, access),
        Exit::DataAbort(abort) => mmio::data_abort(cx, abort),
        Exit::Hvc(0) => psci::call(cx),
        _ => rare(cx, esr),
    }
}

/// Whether the instruction that trapped has 32 bits (ESR_EL2.IL).
const fn is_long(esr: u64) -> bool {
    esr >> 25 & 1 != 0
}

#[inline(never)]
fn rare(cx: Context<'_>, esr: u64) {
    match Exit::decode(esr) {
        Exit::Wfi => {
            cx.regs.skip_trapped(is_long(esr));
            cx.hv().block(cx.vcpu);
        }
        Exit::Wfe => {
            cx.regs.skip_trapped(is_long(esr));
            cx.hv().yield_now(cx.vcpu);
        }
        Exit::FpAccess => {
            fp::allow();
            // SAFETY: the vCPU is loaded on this CPU, so its cells are this CPU's to use.
            unsafe { (*cx.arch.fp_ptr()).load() };
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
            if cx.is_new(Oddity::Fetch) {
                log::debug!("{} fetched from {far:#x}, where nothing is", Name(cx.vcpu));
            }
            inject::instruction_abort(cx.regs, far);
        }
        Exit::Other(class) => {
            if cx.is_new(Oddity::Class(class.into())) {
                log::debug!(
                    "{}: exception class {class:#x} at {:#x}",
                    Name(cx.vcpu),
                    cx.regs.pc
                );
            }
            inject::undefined(cx.regs);
        }
        _ => inject::undefined(cx.regs),
    }
}

#[inline(always)]
fn hypercall(cx: Context<'_>) {
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
    if cx.arch.take_interrupts.load(Relaxed) {
        take_interrupts(cx);
    }
}

/// The guest blocks "with events enabled": it takes interrupts when it goes on.
#[cold]
fn take_interrupts(cx: Context<'_>) {
    cx.arch.take_interrupts.store(false, Relaxed);
    cx.regs.pstate &= !PSTATE_IRQ_MASKED;
}

/// A vCPU as messages name it: `d0v1`.
pub struct Name<'a>(pub &'a VcpuRef<Aarch64>);

impl core::fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::write!(f, "d{}v{}", self.0.domain().id().0, self.0.id.0)
    }
}
