//! Physical interrupts, and the virtual ones that come of them.

use spin::Once;
use xenolith_core::{DomId, DomainRef, VcpuRef};
use xenolith_hal::CpuId;

use crate::{
    Aarch64, console,
    cpu::percpu::PerCpu,
    gic::{self, Gic, What},
    guest::{exit::Context, vcpu::ArchVcpu},
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
#[inline]
pub fn notify(domain: &DomainRef<Aarch64>, vcpu: usize) {
    if let Some(cpu) = PerCpu::try_current()
        && let Some(target) = domain.vcpus.get(vcpu)
    {
        cpu.hv.notify_vcpu(domain, target);
    }
}

/// Takes one physical interrupt. `current` is the vCPU that is loaded on this CPU, if any. A kick has done its work by
/// making this CPU leave its guest.
#[inline]
pub fn physical(cpu: &'static PerCpu, current: Option<&VcpuRef<Aarch64>>) {
    let Some(gic) = gic() else { return };
    gic.handle_physical(|what| match what {
        What::Kick(gic::KICK) | What::Spurious => {}
        What::VirtualTimer => virtual_timer(gic, current),
        other => serve(cpu, current, other),
    });
}

/// The guest's own timer.
#[inline(never)]
fn virtual_timer(gic: &Gic, current: Option<&VcpuRef<Aarch64>>) {
    if let Some(vcpu) = current {
        with_gic!(gic, |hw| vcpu.arch.vgic.timer_fired(hw));
    }
}

/// An interrupt that is neither a kick nor the guest's own timer.
#[inline(never)]
fn serve(cpu: &'static PerCpu, current: Option<&VcpuRef<Aarch64>>, what: What) {
    match what {
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
        What::Kick(_) | What::Spurious | What::VirtualTimer => {}
    }
}

/// The guest sends software interrupts (GICv3: a write to `ICC_SGI1R_EL1`). `arch` is the vCPU's own part.
#[inline]
pub fn sgi(vcpu: &VcpuRef<Aarch64>, arch: &ArchVcpu, value: u64) {
    if let Some(gic) = gic() {
        let domain = vcpu.domain();
        with_gic!(gic, |hw| domain.arch.vgic.sgi1r(
            hw,
            arch.index,
            value,
            |vcpu| notify(domain, vcpu)
        ));
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
