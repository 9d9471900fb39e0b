//! CPUID: what the domain's policy says.

use super::{
    exit::Context,
    hardware::Hardware,
    instruction::{self, Kind},
};
use crate::cpuid::VcpuFacts;

/// Serves the instruction.
#[inline(never)]
pub fn serve<H: Hardware>(cx: &mut Context<'_, H>) {
    let Some(length) = instruction::length(cx, Kind::Cpuid) else {
        return;
    };
    let arch = &cx.vcpu.arch;
    let facts = VcpuFacts {
        apic_id: arch.lapic.id(),
        vcpu_id: arch.index as u32,
        cr4: cx.hw.cr4(),
        // SAFETY: the vCPU is loaded on this CPU, so its cells are this CPU's to use.
        xcr0: unsafe { (*arch.fpu_ptr()).xcr0 },
    };
    let policy = &cx.vcpu.domain().arch.policy;
    let [a, b, c, d] = policy.cpuid(cx.regs.rax as u32, cx.regs.rcx as u32, &facts);
    cx.regs.rax = a.into();
    cx.regs.rbx = b.into();
    cx.regs.rcx = c.into();
    cx.regs.rdx = d.into();
    cx.skip(length);
}
