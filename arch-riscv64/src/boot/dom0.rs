//! Makes dom0: its memory 1:1, its devices, its device tree.

use alloc::{format, string::String};
use core::sync::atomic::Ordering::Relaxed;

use xenolith_arch_common::{
    boot_memory::{self, release},
    dom0::{Devices, give_memory, map, modules_in_place, release_modules, report},
};
use xenolith_core::{
    DomId, DomainRef, Hypervisor,
    boot::{
        image::{Format, Kernel},
        initrd,
        memory::BootMemory,
        modules::Dom0,
        placement::{Load, plan_dom0},
    },
};
use xenolith_hal::P2mType;

use super::{
    Machine,
    build::{self, Shape},
};
use crate::{
    Riscv64,
    domain_build::{Dom0Request, Host, dom0_devices, dom0_tree, dom0_tree_room, guest_isa},
    mm::hyp::Own,
    plic,
};

/// Makes dom0. Afterwards the allocator has all free RAM.
pub(super) fn build(
    hv: &'static Hypervisor<Riscv64>,
    machine: &Machine<'_>,
    dom0: &Dom0<'_>,
    ram: &mut BootMemory,
) -> Result<(), String> {
    let free = ram.free();
    let others = machine.boot.domains.iter();
    let others = others.fold(0u64, |sum, spec| sum.saturating_add(spec.memory));
    // SAFETY: nobody writes the module before its domain runs.
    let file = unsafe { boot_memory::bytes::<Own>(dom0.kernel.range) };
    let kernel = Kernel::parse(file, Format::Riscv64)
        .map_err(|e| format!("dom0's kernel {}: {e}", dom0.kernel.path))?;
    if let Some(ramdisk) = &dom0.ramdisk {
        // SAFETY: as above.
        let file = (ramdisk.range, unsafe {
            boot_memory::bytes::<Own>(ramdisk.range)
        });
        if let Some(warning) = initrd::warning("dom0", Some(file), dom0.bootargs) {
            log::warn!("{warning}");
        }
    }
    let cpus = hv.sched.online_cpus().len() as u32;
    let wanted = machine.options.dom0_max_vcpus.on(cpus);
    let host =
        Host::from_tree(machine.tree, machine.console, wanted).map_err(|e| format!("dom0: {e}"))?;
    let vcpus = host.cpus.len() as u32;
    if vcpus < wanted {
        log::warn!("dom0: {wanted} vCPUs were wanted; the PLIC has room for {vcpus}");
    }
    let isa = guest_isa(&machine.harts.isa, super::given());
    let load = Load {
        kernel: &kernel,
        kernel_at: dom0.kernel.range,
        ramdisk_at: dom0.ramdisk.as_ref().map(|m| m.range),
        device_tree_size: dom0_tree_room(machine.tree, vcpus, dom0.bootargs, &isa),
    };
    let plan = plan_dom0(
        &modules_in_place(ram, dom0),
        &machine.options.dom0_mem,
        others,
        &load,
    )
    .map_err(|e| format!("dom0: {e}"))?;
    report(&plan, vcpus, &machine.options.dom0_mem, &free, others);
    let mut devices = dom0_devices(machine.tree, &host, &ram.ram);
    devices.leave_to_hypervisor(ram);
    let request = Dom0Request {
        plan: &plan,
        bootargs: dom0.bootargs,
        timer_frequency: machine.harts.hz,
        isa: &isa,
        mmu: machine.harts.mmu,
        // The hypervisor's own place is the one range that surely is neither a device nor dom0's memory.
        grant_region: boot_memory::image::<Own>(),
        reserved: &devices.reserved,
    };
    let tree = dom0_tree(machine.tree, &host, &request).map_err(|e| format!("dom0: {e}"))?;
    let shape = Shape {
        id: DomId(0),
        name: "dom0",
        vcpus,
        privileged: true,
        direct_map: true,
        places: host.places(),
        has_devices: true,
        time_delta: 0,
    };
    let domain = build::create(hv, machine.mode, &shape, &plan)?;
    // It maps devices and other domains' frames, as many as there are; the machine bounds what that costs.
    domain.memory.hypervisor_max.store(u64::MAX, Relaxed);
    // From here on the allocator has all of RAM, and at once dom0 takes what is planned for it.
    release(hv, &free);
    release_modules(hv, ram, dom0, |module| plan.owns(module));
    give_memory(hv, &domain, "dom0", &plan)?;
    give_devices(hv, &domain, &host, &devices);
    build::fill(hv, &domain, "dom0", &kernel, &plan, &tree)?;
    release_modules(hv, ram, dom0, |module| !plan.owns(module));
    build::start(hv, &domain, &plan)
}

/// Maps the machine's devices where they are and opens their sources.
fn give_devices(
    hv: &'static Hypervisor<Riscv64>,
    domain: &DomainRef<Riscv64>,
    host: &Host,
    devices: &Devices<u32>,
) {
    if host.other_plics != 0 {
        log::warn!(
            "dom0: {} more PLICs are not driven: no interrupts of the devices at them",
            host.other_plics
        );
    }
    for range in devices.withheld.iter() {
        log::warn!("dom0 does not get {range}: the hypervisor keeps a device there");
    }
    let mapped = [&devices.mmio, &devices.pci_windows, &devices.reserved];
    for range in mapped.into_iter().flat_map(|set| set.iter()) {
        // Reserved memory too: it is no memory that the domain owns.
        map(hv, domain, range, range.start(), P2mType::MmioDirect);
    }
    plic::give_to(domain.id());
    for source in &devices.interrupts {
        plic::open(*source);
    }
    log::info!(
        "dom0: {} device regions, {} interrupts",
        devices.mmio.iter().count(),
        devices.interrupts.len()
    );
}
