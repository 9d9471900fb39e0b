//! Makes dom0: its memory 1:1, its devices, its device tree, its first vCPU.

use alloc::{format, string::String, vec::Vec};

use xenolith_core::{
    DomId, DomainRef, Hypervisor, VcpuId, VcpuRef,
    boot::{
        PhysRange, RangeSet,
        gzip::SinkFull,
        image::Kernel,
        memory::BootMemory,
        modules::Dom0,
        placement::{DomainPlan, Load, Source, dom0_memory, plan_dom0},
    },
    domain::DomainConfig,
    memory::Place,
};
use xenolith_hal::{CpuId, Gfn, Mfn, NoMemory, P2m, P2mType, PAGE_SHIFT, PAGE_SIZE};

use super::{Machine, memory};
use crate::{
    Aarch64,
    domain_build::{Devices, Dom0Request, GicVersion, dom0_tree, dom0_tree_room},
    gic::Owner,
    guest::{
        frames::GicFrames,
        vcpu::{ArchDomain, ArchVcpu},
    },
    irq,
    mm::{
        direct,
        hardware::{Hardware, Stage2},
    },
    timer,
    vgic::{VgicConfig, VgicDomain},
};

/// Makes every domain that the boot loader asked for.
pub(super) fn build_all(
    hv: &'static Hypervisor<Aarch64>,
    machine: &Machine<'_>,
    ram: &BootMemory,
    blob: PhysRange,
) -> Result<(), String> {
    let free = ram.free();
    let Some(dom0) = &machine.boot.dom0 else {
        return Err(String::from("domains without a dom0 are not built yet"));
    };
    build(hv, machine, dom0, &free)?;
    release(hv, blob);
    for module in &machine.boot.unused {
        release(hv, module.range);
    }
    Ok(())
}

/// Gives whole frames of a range to the allocator.
fn release(hv: &Hypervisor<Aarch64>, range: PhysRange) {
    let inner = range.aligned_inner(PAGE_SIZE as u64);
    hv.memory
        .release_at_boot(Mfn(inner.start() >> PAGE_SHIFT), inner.size() >> PAGE_SHIFT);
}

fn frames(range: PhysRange) -> (u64, u64) {
    (range.start() >> PAGE_SHIFT, range.size() >> PAGE_SHIFT)
}

/// The frames of a module, the last one whole.
fn outer(range: PhysRange) -> PhysRange {
    range.page_outer().unwrap_or(range)
}

fn build(
    hv: &'static Hypervisor<Aarch64>,
    machine: &Machine<'_>,
    dom0: &Dom0<'_>,
    free: &RangeSet,
) -> Result<(), String> {
    // SAFETY: nobody writes the module before its domain runs.
    let file = unsafe { memory::bytes(dom0.kernel.range) };
    let kernel =
        Kernel::parse(file).map_err(|e| format!("dom0's kernel {}: {e}", dom0.kernel.path))?;
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
    let plan =
        plan_dom0(free, &machine.options.dom0_mem, 0, &load).map_err(|e| format!("dom0: {e}"))?;
    log::info!(
        "dom0: {} MiB (of {} free), {vcpus} vCPUs, kernel at {}, device tree at {}",
        plan.memory() >> 20,
        dom0_memory(&machine.options.dom0_mem, free.size(), 0) >> 20,
        plan.kernel.at,
        plan.device_tree,
    );
    let devices = Devices::of(
        machine.tree,
        &machine.host,
        machine.console,
        &ram_of(free, &plan),
    );
    let event_ppi = machine.host.event_ppi(machine.tree);
    let image = memory::image();
    let request = Dom0Request {
        plan: &plan,
        bootargs: dom0.bootargs,
        vcpus,
        console: machine.console,
        event_ppi,
        grant_region: image,
        extended_regions: &[],
        reserved: &devices.reserved,
    };
    let tree =
        dom0_tree(machine.tree, &machine.host, &request).map_err(|e| format!("dom0: {e}"))?;

    let domain = create(hv, machine, vcpus, &plan, event_ppi)?;
    // From here on the allocator has all of RAM: first what dom0 takes at its place.
    for range in free.iter() {
        release(hv, range);
    }
    release_in_place(hv, dom0, &plan);
    own_memory(hv, &domain, &plan)?;
    map_devices(hv, machine, &domain, &devices);
    load_kernel(hv, &domain, &kernel, &plan)?;
    load_rest(hv, &domain, &plan, &tree)?;
    release_copied(hv, dom0, &plan);

    let boot_vcpu = VcpuRef::new(&domain, VcpuId(0)).ok_or("dom0 has no vCPU")?;
    // SAFETY: the vCPU has never been up.
    unsafe { boot_vcpu.arch.reset(plan.entry, plan.device_tree.start()) };
    hv.domain_built(&domain);
    hv.vcpu_up(&boot_vcpu);
    Ok(())
}

/// All RAM that dom0's devices must not overlap.
fn ram_of(free: &RangeSet, plan: &DomainPlan) -> RangeSet {
    let mut ram = free.clone();
    for bank in &plan.banks {
        ram.insert(bank.guest);
    }
    ram
}

fn create(
    hv: &'static Hypervisor<Aarch64>,
    machine: &Machine<'_>,
    vcpus: u32,
    plan: &DomainPlan,
    event_ppi: u32,
) -> Result<DomainRef<Aarch64>, String> {
    let gic = irq::gic().ok_or("no interrupt controller")?;
    let host = &machine.host;
    let seen = host.virtual_gic(vcpus);
    let vgic = VgicDomain::new(&VgicConfig {
        version: gic.version(),
        vcpus: vcpus as usize,
        lines: gic.lines(),
        ppis: gic.ppis(),
    });
    let part = |range: Option<PhysRange>| range.map_or((0, 0), |r| (r.start(), r.size()));
    let frames = GicFrames {
        distributor: part(Some(seen.distributor)),
        redistributors: part(seen.redistributors.first().copied()),
    };
    let arch_vcpus: Vec<ArchVcpu> = (0..vcpus as usize)
        .filter_map(|i| Some(ArchVcpu::new(i, vgic.vcpu(i)?.clone())))
        .collect();
    let config = DomainConfig {
        id: DomId(0),
        vcpus: vcpus as u16,
        privileged: true,
        max_frames: u64::MAX,
        direct_map: true,
    };
    let _ = plan;
    let arch = ArchDomain::new(vgic, frames, event_ppi, 0);
    hv.create_domain(config, arch, arch_vcpus, |tables| {
        new_stage2(hv, machine, tables, 1)
    })
    .map_err(|e| format!("dom0 cannot be made: {}", e.name()))
}

/// Empty stage 2 tables with their first table from the allocator.
fn new_stage2(
    hv: &Hypervisor<Aarch64>,
    machine: &Machine<'_>,
    _tables: &dyn xenolith_hal::TableFrames,
    vmid: u16,
) -> Result<Stage2, NoMemory> {
    let order = machine.geometry.root_order();
    let root = hv.memory.allocate(order, Place::ANY).ok_or(NoMemory)?;
    direct::zero(root, order);
    Ok(Stage2::new(Hardware, machine.geometry, root, vmid))
}

fn release_in_place(hv: &Hypervisor<Aarch64>, dom0: &Dom0<'_>, plan: &DomainPlan) {
    let ramdisk = dom0.ramdisk.as_ref().zip(plan.ramdisk);
    let kernel = (plan.kernel.source == Source::InPlace).then_some(dom0.kernel.range);
    let ramdisk = ramdisk.and_then(|(m, p)| (p.source == Source::InPlace).then_some(m.range));
    for range in kernel.into_iter().chain(ramdisk) {
        release(hv, outer(range));
    }
}

fn release_copied(hv: &Hypervisor<Aarch64>, dom0: &Dom0<'_>, plan: &DomainPlan) {
    if plan.kernel.source != Source::InPlace {
        release(hv, outer(dom0.kernel.range));
    }
    if let Some((module, placed)) = dom0.ramdisk.as_ref().zip(plan.ramdisk)
        && placed.source != Source::InPlace
    {
        release(hv, outer(module.range));
    }
}

fn own_memory(
    hv: &'static Hypervisor<Aarch64>,
    domain: &DomainRef<Aarch64>,
    plan: &DomainPlan,
) -> Result<(), String> {
    for bank in &plan.banks {
        let (first, count) = frames(bank.guest);
        hv.allocate_for_at(domain, Mfn(first), count)
            .map_err(|_| format!("dom0: memory at {} is not free", bank.guest))?;
        domain
            .p2m
            .map(
                Gfn(first),
                Mfn(first),
                count,
                P2mType::RamRw,
                &hv.tables(domain),
            )
            .map_err(|e| format!("dom0: memory at {} cannot be mapped: {e:?}", bank.guest))?;
    }
    Ok(())
}

fn map_devices(
    hv: &'static Hypervisor<Aarch64>,
    machine: &Machine<'_>,
    domain: &DomainRef<Aarch64>,
    devices: &Devices,
) {
    let map = |guest: PhysRange, host: u64, kind: P2mType| {
        let (first, count) = frames(guest);
        let tables = hv.tables(domain);
        if domain
            .p2m
            .map(Gfn(first), Mfn(host >> PAGE_SHIFT), count, kind, &tables)
            .is_err()
        {
            log::warn!("dom0 does not get {guest}: beyond its address space");
        }
    };
    for range in devices.mmio.iter().chain(devices.pci_windows.iter()) {
        map(range, range.start(), P2mType::MmioDirect);
    }
    for range in devices.reserved.iter() {
        map(range, range.start(), P2mType::RamRw);
    }
    // GICv2: the guest's CPU interface is the hardware's virtual one.
    if machine.host.gic.version == GicVersion::V2
        && let Some(seen) = machine.host.virtual_gic(1).cpu_interface
        && let Some(real) = machine.host.gic.virtual_cpu_interface
    {
        map(seen, real.start(), P2mType::MmioDirect);
    }
    if let Some(gic) = irq::gic() {
        for spi in &devices.spis {
            gic.give_spi(spi.number, Owner(domain.id().0), CpuId(0));
            domain.arch.vgic.link_physical(spi.number);
        }
    }
    log::info!(
        "dom0: {} device regions, {} interrupts",
        devices.mmio.iter().count(),
        devices.spis.len()
    );
}

/// Writes bytes into a domain's memory.
fn write_guest(domain: &DomainRef<Aarch64>, at: u64, bytes: &[u8]) -> Result<(), SinkFull> {
    let mut done = 0;
    while done < bytes.len() {
        let address = at + done as u64;
        let offset = address as usize % PAGE_SIZE;
        let entry = domain
            .p2m
            .lookup(Gfn(address >> PAGE_SHIFT))
            .ok_or(SinkFull)?;
        let piece = (PAGE_SIZE - offset).min(bytes.len() - done);
        let part = bytes.get(done..done + piece).ok_or(SinkFull)?;
        direct::write(entry.mfn, offset, part).map_err(|_| SinkFull)?;
        done += piece;
    }
    Ok(())
}

/// The guest starts with its caches off: what it reads first must be in memory.
fn clean(range: PhysRange) {
    direct::clean_to_memory(range.base(), range.size());
}

fn load_kernel(
    hv: &Hypervisor<Aarch64>,
    domain: &DomainRef<Aarch64>,
    kernel: &Kernel<'_>,
    plan: &DomainPlan,
) -> Result<(), String> {
    let _ = hv;
    let mut length = kernel.length;
    if plan.kernel.source != Source::InPlace {
        let started = timer::ticks();
        let mut at = plan.kernel.at.start();
        let mut sink = |bytes: &[u8]| {
            write_guest(domain, at, bytes)?;
            at += bytes.len() as u64;
            Ok(())
        };
        length = kernel
            .load(&mut sink)
            .map_err(|e| format!("dom0's kernel: {e}"))?;
        log::info!(
            "dom0: kernel loaded in {} timer ticks",
            timer::ticks() - started
        );
    }
    let file = PhysRange::new(plan.kernel.at.start(), length).unwrap_or_default();
    clean(file);
    Ok(())
}

fn load_rest(
    hv: &Hypervisor<Aarch64>,
    domain: &DomainRef<Aarch64>,
    plan: &DomainPlan,
    tree: &[u8],
) -> Result<(), String> {
    let _ = hv;
    if let Some(placed) = plan.ramdisk
        && let Source::Copy(from) | Source::Unpack(from) = placed.source
    {
        // SAFETY: the module lies untouched until it is released, after this copy.
        let bytes = unsafe { memory::bytes(from) };
        write_guest(domain, placed.at.start(), bytes)
            .map_err(|_| String::from("dom0's ramdisk does not fit its place"))?;
    }
    if tree.len() as u64 > plan.device_tree.size() {
        return Err(String::from("dom0's device tree outgrew its place"));
    }
    write_guest(domain, plan.device_tree.start(), tree)
        .map_err(|_| String::from("dom0's device tree does not fit its place"))?;
    clean(plan.device_tree);
    Ok(())
}
