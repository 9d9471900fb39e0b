//! Makes the domains that `xen,domain` nodes describe, with or without a dom0 beside them.

use alloc::{format, string::String};

use xenolith_arch_common::boot_memory::bytes;
use xenolith_core::{
    DomId, DomainRef, Hypervisor,
    boot::{
        PhysRange,
        image::{Format, Kernel},
        modules::{DomainSpec, Enhanced},
        placement::{DomainPlan, GuestLayout, Load, plan_domu},
    },
    domain::Destroyed,
};
use xenolith_hal::{Gfn, Mfn, P2m, P2mType, PAGE_SHIFT};

use super::{
    Machine,
    build::{self, Shape, frames},
};
use crate::{
    Aarch64,
    domain_build::{
        DomuRequest, EVENT_PPI, GUEST_BANKS, GicVersion, GuestGic, PL011_SPI, domu_tree,
        domu_tree_room,
    },
    guest::frames::GicFrames,
    mm::hyp::El2,
    timer,
    vgic::{REDIST_SIZE, max_vcpus},
};

/// Interrupt numbers of such a domain beside what its node asks for: the private ones and a word of shared ones.
const LINES: u32 = 64;

/// Bytes of RAM that a domain will take: its memory, and room for tables and the like.
pub(super) fn memory_needed(spec: &DomainSpec<'_>) -> u64 {
    spec.memory
        .saturating_add(spec.memory >> 8)
        .saturating_add(1 << 20)
}

/// Makes one domain.
pub(super) fn build(
    hv: &'static Hypervisor<Aarch64>,
    machine: &Machine<'_>,
    spec: &DomainSpec<'_>,
    id: DomId,
) -> Result<(), String> {
    let name = spec.name;
    let gic = build::gic()?;
    // SAFETY: nobody writes the module before its domain runs.
    let file = unsafe { bytes::<El2>(spec.kernel.range) };
    let kernel = Kernel::parse(file, Format::Arm64)
        .map_err(|e| format!("{name}'s kernel {}: {e}", spec.kernel.path))?;
    if spec.ramdisk.is_some()
        && let Some(warning) = build::ramdisk_warning(name, spec.ramdisk.as_ref(), spec.bootargs)
    {
        log::warn!("{warning}");
    }
    let load = Load {
        kernel: &kernel,
        kernel_at: spec.kernel.range,
        ramdisk_at: spec.ramdisk.as_ref().map(|m| m.range),
        device_tree_size: domu_tree_room(spec.cpus, spec.bootargs),
    };
    let free = hv.memory.free_frames() << PAGE_SHIFT;
    let plan = plan_domu(
        GuestLayout {
            banks: &GUEST_BANKS,
        },
        spec.memory,
        free,
        &load,
    )
    .map_err(|e| format!("{name}: {e}"))?;
    if spec.direct_map {
        log::warn!("{name}: direct-map is not supported beside dom0; its memory is anywhere");
    }
    let guest_gic = match machine.host.gic.version {
        GicVersion::V2 => GuestGic::V2,
        GicVersion::V3 => GuestGic::V3,
    };
    let room = (guest_gic.second.size() / REDIST_SIZE) as usize;
    let most = match guest_gic.version {
        GicVersion::V2 => max_vcpus(gic.version()),
        GicVersion::V3 => max_vcpus(gic.version()).min(room),
    };
    if spec.cpus == 0 || spec.cpus as usize > most {
        return Err(format!(
            "{name}: cpus = {} is not possible, 1 to {most} are",
            spec.cpus
        ));
    }
    let request = DomuRequest {
        plan: &plan,
        bootargs: spec.bootargs,
        vcpus: spec.cpus,
        gic: guest_gic,
        pl011: spec.vpl011,
        hypervisor: spec.enhanced != Enhanced::Disabled,
        timer_frequency: machine.host.timer_frequency,
    };
    let tree = domu_tree(&request).map_err(|e| format!("{name}: {e}"))?;
    let v3 = guest_gic.version == GicVersion::V3;
    let shape = Shape {
        id,
        vcpus: spec.cpus,
        privileged: false,
        max_frames: plan.memory() >> PAGE_SHIFT,
        direct_map: false,
        lines: LINES.max(PL011_SPI + 1 + spec.nr_spis.unwrap_or(0)),
        frames: GicFrames {
            distributor: (guest_gic.distributor.start(), guest_gic.distributor.size()),
            redistributors: if v3 {
                (guest_gic.second.start(), u64::from(spec.cpus) * REDIST_SIZE)
            } else {
                (0, 0)
            },
        },
        event_ppi: EVENT_PPI,
        counter_offset: timer::ticks(),
        uart: spec.vpl011,
    };
    let domain = build::create(hv, machine, gic, &shape)?;
    if let Err(error) = fill_in(hv, machine, spec, &domain, &kernel, &plan, &tree) {
        // Nothing of it ran: it goes in one piece unless interrupts come in between.
        while hv.destroy(&domain) == Destroyed::NotYet {}
        return Err(error);
    }
    log::info!(
        "{name}: domain {}, {} MiB, {} vCPUs",
        id.0,
        plan.memory() >> 20,
        spec.cpus
    );
    build::start(hv, &domain, &plan)
}

/// Gives a new domain its memory and what goes in.
fn fill_in(
    hv: &'static Hypervisor<Aarch64>,
    machine: &Machine<'_>,
    spec: &DomainSpec<'_>,
    domain: &DomainRef<Aarch64>,
    kernel: &Kernel<'_>,
    plan: &DomainPlan,
    tree: &[u8],
) -> Result<(), String> {
    let name = spec.name;
    for bank in &plan.banks {
        let (first, count) = frames(bank.guest);
        hv.give_ram(domain, Gfn(first), count)
            .map_err(|e| format!("{name}: {e}"))?;
    }
    if machine.host.gic.version == GicVersion::V2
        && let Some(real) = machine.host.gic.virtual_cpu_interface
    {
        map_cpu_interface(hv, domain, GuestGic::V2.second, real)?;
    }
    build::fill(domain, name, kernel, plan, tree)?;
    if spec.vpl011 {
        hv.console.offer_focus(domain.id());
    }
    Ok(())
}

/// GICv2: the guest's CPU interface is the hardware's virtual one.
fn map_cpu_interface(
    hv: &'static Hypervisor<Aarch64>,
    domain: &DomainRef<Aarch64>,
    seen: PhysRange,
    real: PhysRange,
) -> Result<(), String> {
    let (first, count) = frames(seen);
    let host = Mfn(real.start() >> PAGE_SHIFT);
    domain
        .p2m
        .map(
            Gfn(first),
            host,
            count,
            P2mType::MmioDirect,
            &hv.tables(domain),
        )
        .map_err(|e| format!("the CPU interface cannot be mapped: {e:?}"))
}
