//! Physical interrupts, and the virtual ones that come of them.

use spin::Once;
use xenolith_core::{DomId, DomainRef, VcpuId, VcpuRef};
use xenolith_hal::CpuId;

use crate::{
    Aarch64, console,
    cpu::percpu::PerCpu,
    gic::{self, Gic, What},
    guest::exit::Context,
    timer, with_gic,
};

static GIC: Once<Gic> = Once::new();

/// Makes the interrupt controller known; once.
pub fn init(gic: Gic) -> &'static Gic {
    GIC.call_once(|| gic)
}

/// The machine's interrupt controller, if start-up got that far.
#[inline(always)]
pub fn gic() -> Option<&'static Gic> {
    GIC.get()
}

/// Makes a CPU leave its guest.
pub fn kick(cpu: CpuId) {
    if let Some(gic) = gic()
        && PerCpu::try_current().is_none_or(|own| own.id != cpu)
    {
        gic.send(cpu, gic::KICK);
    }
}

/// Tells the scheduler that a vCPU of a domain has something to take.
pub fn notify(domain: &DomainRef<Aarch64>, vcpu: usize) {
    if let Some(cpu) = PerCpu::try_current()
        && let Some(target) = VcpuRef::new(domain, VcpuId(vcpu as u16))
    {
        cpu.hv.notify(&target);
    }
}

/// Takes one physical interrupt. `current` is the vCPU that is loaded on this CPU, if any.
#[inline]
pub fn physical(cpu: &'static PerCpu, current: Option<&VcpuRef<Aarch64>>) {
    let Some(gic) = gic() else { return };
    match gic.handle_physical() {
        What::VirtualTimer => {
            if let Some(vcpu) = current {
                with_gic!(gic, |hw| vcpu.arch.vgic.timer_fired(hw));
            }
        }
        What::Guest { intid, owner } => {
            if let Some(domain) = cpu.hv.domains.get(DomId(owner.0)) {
                domain
                    .arch
                    .vgic
                    .physical_spi(intid, cpu.id, |vcpu| notify(&domain, vcpu));
            }
        }
        What::HypTimer => {
            timer::fired();
            cpu.hv.timer_interrupt(cpu.id);
        }
        What::Maintenance => {
            if let Some(vcpu) = current {
                vcpu.arch.vgic.maintenance();
            }
        }
        What::Own(intid) => console::interrupt(cpu.hv, intid),
        What::Kick(gic::STOP) => crate::cpu::fault::halt(),
        What::Kick(_) | What::Spurious => {}
    }
}

/// The guest sends software interrupts (GICv3: a write to `ICC_SGI1R_EL1`).
#[inline]
pub fn sgi(cx: &Context<'_>, value: u64) {
    if let Some(gic) = gic() {
        let vgic = &cx.vcpu.domain().arch.vgic;
        let domain = cx.vcpu.domain();
        with_gic!(gic, |hw| vgic
            .sgi1r(hw, cx.arch.index, value, |vcpu| notify(domain, vcpu)));
    }
}

/// The guest's emulated physical timer no longer asks for its interrupt.
pub fn lower_physical_timer(cx: &Context<'_>) {
    let domain = cx.vcpu.domain();
    domain.arch.vgic.set_line(
        cx.arch.index,
        domain.arch.physical_timer_ppi,
        false,
        |vcpu| notify(domain, vcpu),
    );
}
