//! Makes dom0: its memory 1:1, its devices, its device tree.

use alloc::{format, string::String};
use core::sync::atomic::Ordering::Relaxed;

use xenolith_arch_common::{
    boot_memory::{self, release},
    dom0::{give_memory, map, modules_in_place, release_modules, report},
};
use xenolith_core::{
    DomId, DomainRef, Hypervisor,
    boot::{
        PhysRange, RangeSet,
        image::{Format, Kernel},
        memory::BootMemory,
        modules::Dom0,
        placement::{Load, plan_dom0},
    },
};
use xenolith_hal::{CpuId, P2mType, PAGE_SHIFT};

use super::{
    Machine,
    build::{self, Shape},
};
use crate::{
    Aarch64,
    domain_build::{Devices, Dom0Request, GicVersion, devices, dom0_tree, dom0_tree_room},
    gic::{Gic, Owner},
    guest::frames::GicFrames,
    mm::hyp::El2,
};

/// RAM that no device's registers are in. What is reserved may be a device's: it is nobody's memory, dom0's neither.
fn kept_from_devices(memory: &BootMemory) -> RangeSet {
    let mut kept = memory.ram.clone();
    for reserved in &memory.reserved {
        kept.remove(reserved.range);
    }
    memory.taken().for_each(|range| kept.insert(range));
    kept
}

/// Makes dom0. `others` is how many bytes other domains will need; afterwards the allocator has all free RAM.
pub(super) fn build(
    hv: &'static Hypervisor<Aarch64>,
    machine: &Machine<'_>,
    dom0: &Dom0<'_>,
    ram: &mut BootMemory,
    others: u64,
) -> Result<(), String> {
    let gic = build::gic()?;
    let free = &ram.free();
    // SAFETY: nobody writes the module before its domain runs.
    let file = unsafe { boot_memory::bytes::<El2>(dom0.kernel.range) };
    let kernel = Kernel::parse(file, Format::Arm64)
        .map_err(|e| format!("dom0's kernel {}: {e}", dom0.kernel.path))?;
    if let Some(warning) = build::ramdisk_warning("dom0", dom0.ramdisk.as_ref(), dom0.bootargs) {
        log::warn!("{warning}");
    }
    let cpus = hv.sched.online_cpus().len() as u32;
    let vcpus = machine
        .options
        .dom0_max_vcpus
        .on(cpus)
        .min(machine.host.most_vcpus());
    let load = Load {
        kernel: &kernel,
        kernel_at: dom0.kernel.range,
        ramdisk_at: dom0.ramdisk.as_ref().map(|m| m.range),
        device_tree_size: dom0_tree_room(machine.tree, vcpus, dom0.bootargs),
    };
    let plan = plan_dom0(
        &modules_in_place(ram, dom0),
        &machine.options.dom0_mem,
        others,
        &load,
    )
    .map_err(|e| format!("dom0: {e}"))?;
    report(&plan, vcpus, &machine.options.dom0_mem, free, others);
    let devices = devices(
        machine.tree,
        &machine.host,
        machine.console,
        &kept_from_devices(ram),
    );
    let event_ppi = machine.host.event_ppi(machine.tree);
    let request = Dom0Request {
        plan: &plan,
        bootargs: dom0.bootargs,
        vcpus,
        console: machine.console,
        event_ppi,
        // The hypervisor's own place is the one range that surely is neither a device nor dom0's memory.
        grant_region: boot_memory::image::<El2>(),
        extended_regions: &[],
        reserved: &RangeSet::new(),
    };
    let tree =
        dom0_tree(machine.tree, &machine.host, &request).map_err(|e| format!("dom0: {e}"))?;

    let seen = machine.host.virtual_gic(vcpus);
    let part = |range: Option<PhysRange>| range.map_or((0, 0), |r| (r.start(), r.size()));
    let shape = Shape {
        id: DomId(0),
        vcpus,
        privileged: true,
        max_frames: plan.memory() >> PAGE_SHIFT,
        direct_map: true,
        lines: gic.lines(),
        frames: GicFrames {
            distributor: part(Some(seen.distributor)),
            redistributors: part(seen.redistributors.first().copied()),
        },
        event_ppi,
        counter_offset: 0,
        uart: false,
    };
    let domain = build::create(hv, machine, gic, &shape)?;
    // It maps devices and other domains' frames, as many as there are; the machine bounds what that costs.
    domain.memory.hypervisor_max.store(u64::MAX, Relaxed);
    // From here on the allocator has all of RAM, and at once dom0 takes what is planned for it.
    release(hv, free);
    release_modules(hv, ram, dom0, |module| plan.owns(module));
    give_memory(hv, &domain, "dom0", &plan)?;
    map_devices(hv, machine, gic, &domain, &devices);
    build::fill(&domain, "dom0", &kernel, &plan, &tree)?;
    release_modules(hv, ram, dom0, |module| !plan.owns(module));
    build::start(hv, &domain, &plan)
}

fn map_devices(
    hv: &'static Hypervisor<Aarch64>,
    machine: &Machine<'_>,
    gic: &Gic,
    domain: &DomainRef<Aarch64>,
    devices: &Devices,
) {
    let map = |guest: PhysRange, host: u64, kind| map(hv, domain, guest, host, kind);
    for range in devices.mmio.iter().chain(devices.pci_windows.iter()) {
        map(range, range.start(), P2mType::MmioDirect);
    }
    // GICv2: the guest's CPU interface is the hardware's virtual one.
    if machine.host.gic.version == GicVersion::V2
        && let Some(seen) = machine.host.virtual_gic(1).cpu_interface
        && let Some(real) = machine.host.gic.virtual_cpu_interface
    {
        map(seen, real.start(), P2mType::MmioDirect);
    }
    for spi in &devices.interrupts {
        gic.give_spi(spi.number, Owner(domain.id().0), CpuId(0));
        domain.arch.vgic.link_physical(spi.number);
    }
    log::info!(
        "dom0: {} device regions, {} interrupts",
        devices.mmio.iter().count(),
        devices.interrupts.len()
    );
}
