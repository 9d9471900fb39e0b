//! Makes one domain that a `xen,domain` node describes.

use alloc::{format, string::String, vec::Vec};

use xenolith_arch_common::boot_memory::bytes;
use xenolith_core::{
    DomId, DomainRef, Hypervisor, VcpuId, VcpuRef,
    boot::{
        gzip::SinkFull,
        image::{Format, Kernel},
        initrd,
        modules::{DomainSpec, Enhanced},
        placement::{DomainPlan, GuestLayout, Load, Source, plan_domu},
    },
    console::Focus,
    domain::{Destroyed, DomainConfig, GuestKind},
};
use xenolith_hal::{Gfn, Mfn, NoMemory, P2m, P2mType, PAGE_SHIFT, PAGE_SIZE, TableFrames};

use super::Machine;
use crate::{
    Riscv64,
    domain_build::{Device, GUEST_BANKS, MOST_VCPUS, Places, Request, guest_isa, tree, tree_room},
    guest::vcpu::{ArchDomain, ArchVcpu},
    mm::{
        fences::{self, GStage, Tables},
        gstage::{Mode, vmid},
        hyp::{Direct, Own},
    },
    plic, timer,
};

/// Makes one domain.
pub(super) fn build(
    hv: &'static Hypervisor<Riscv64>,
    machine: &Machine<'_>,
    spec: &DomainSpec<'_>,
    id: DomId,
) -> Result<(), String> {
    let name = spec.name;
    if spec.cpus == 0 || spec.cpus > MOST_VCPUS {
        return Err(format!(
            "{name}: cpus = {} is not possible, 1 to {MOST_VCPUS} are",
            spec.cpus
        ));
    }
    // SAFETY: nobody writes the module before its domain runs.
    let file = unsafe { bytes::<Own>(spec.kernel.range) };
    let kernel = Kernel::parse(file, Format::Riscv64)
        .map_err(|e| format!("{name}'s kernel {}: {e}", spec.kernel.path))?;
    if let Some(ramdisk) = &spec.ramdisk {
        // SAFETY: as above.
        let file = (ramdisk.range, unsafe { bytes::<Own>(ramdisk.range) });
        if let Some(warning) = initrd::warning(name, Some(file), spec.bootargs) {
            log::warn!("{warning}");
        }
    }
    let isa = guest_isa(&machine.harts.isa, super::given());
    // Only one domain can have them.
    let devices = match id {
        DomId(0) if spec.capabilities.has_hardware() => machine.devices.as_slice(),
        _ => &[],
    };
    let load = Load {
        kernel: &kernel,
        kernel_at: spec.kernel.range,
        ramdisk_at: spec.ramdisk.as_ref().map(|module| module.range),
        device_tree_size: tree_room(spec.cpus, spec.bootargs, &isa, devices),
    };
    let layout = GuestLayout {
        banks: &GUEST_BANKS,
    };
    let free = hv.memory.free_frames() << PAGE_SHIFT;
    let plan = plan_domu(layout, spec.memory, free, &load).map_err(|e| format!("{name}: {e}"))?;
    if spec.direct_map {
        log::warn!("{name}: direct-map is not supported; its memory is anywhere");
    }
    let request = Request {
        plan: &plan,
        bootargs: spec.bootargs,
        vcpus: spec.cpus,
        uart: spec.vpl011,
        hypervisor: spec.enhanced != Enhanced::Disabled,
        timer_frequency: machine.harts.hz,
        isa: &isa,
        mmu: machine.harts.mmu,
        devices,
    };
    let tree = tree(&request).map_err(|e| format!("{name}: {e}"))?;
    let shape = Shape {
        id,
        name,
        vcpus: spec.cpus,
        privileged: id == DomId(0),
        direct_map: false,
        places: Places::of_guests(spec.vpl011),
        has_devices: !devices.is_empty(),
        // Its time begins at zero.
        time_delta: timer::ticks().wrapping_neg(),
    };
    let domain = create(hv, machine.mode, &shape, &plan)?;
    let made = give_ram(hv, &domain, name, &plan)
        .and_then(|()| fill(hv, &domain, name, &kernel, &plan, &tree))
        .and_then(|()| give_devices(hv, &domain, devices));
    if let Err(error) = made {
        // Nothing of it ran: it goes in one piece unless interrupts come in between.
        while hv.destroy(&domain) == Destroyed::NotYet {}
        return Err(error);
    }
    log::info!(
        "{name}: domain {}{}, {} MiB, {} vCPUs",
        id.0,
        if domain.config.privileged {
            " (control)"
        } else {
            ""
        },
        plan.memory() >> 20,
        spec.cpus
    );
    start(hv, &domain, &plan)
}

/// What is particular to a domain when it is made.
pub(super) struct Shape<'s> {
    pub(super) id: DomId,
    pub(super) name: &'s str,
    pub(super) vcpus: u32,
    pub(super) privileged: bool,
    pub(super) direct_map: bool,
    pub(super) places: Places,
    /// Whether interrupts of the machine's devices go to it.
    pub(super) has_devices: bool,
    /// What its time is ahead of the machine's.
    pub(super) time_delta: u64,
}

/// Makes a domain with nothing in it.
pub(super) fn create(
    hv: &'static Hypervisor<Riscv64>,
    mode: Mode,
    shape: &Shape<'_>,
    plan: &DomainPlan,
) -> Result<DomainRef<Riscv64>, String> {
    let (name, id) = (shape.name, shape.id);
    let vcpus: Vec<ArchVcpu> = (0..shape.vcpus as usize).map(ArchVcpu::new).collect();
    let arch = ArchDomain::new(
        vcpus.len(),
        shape.places,
        shape.time_delta,
        shape.has_devices,
    );
    let config = DomainConfig {
        id,
        vcpus: shape.vcpus as u16,
        privileged: shape.privileged,
        max_frames: plan.memory() >> PAGE_SHIFT,
        direct_map: shape.direct_map,
        kind: GuestKind::Translated,
    };
    let domain = hv
        .create_domain(config, arch, vcpus, |tables| {
            new_tables(mode, tables, vmid(id.0, fences::vmids()))
        })
        .map_err(|e| format!("{name} cannot be made: {}", e.name()))?;
    hv.update_wallclock(&domain);
    Ok(domain)
}

/// Empty second-level tables.
fn new_tables(mode: Mode, tables: &dyn TableFrames, vmid: u16) -> Result<GStage, NoMemory> {
    let shape = mode.shape();
    let root = tables.allocate_block(shape.root_order())?;
    Ok(GStage::new(Tables::new(vmid, mode), shape, root))
}

/// Writes bytes into a domain's memory.
fn write_guest(domain: &DomainRef<Riscv64>, at: u64, bytes: &[u8]) -> Result<(), SinkFull> {
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
        Direct::write(entry.mfn, offset, part).map_err(|_| SinkFull)?;
        done += piece;
    }
    Ok(())
}

/// Gives a new domain memory from anywhere.
fn give_ram(
    hv: &'static Hypervisor<Riscv64>,
    domain: &DomainRef<Riscv64>,
    name: &str,
    plan: &DomainPlan,
) -> Result<(), String> {
    for bank in &plan.banks {
        let (first, count) = (
            bank.guest.start() >> PAGE_SHIFT,
            bank.guest.size() >> PAGE_SHIFT,
        );
        hv.give_ram(domain, Gfn(first), count)
            .map_err(|e| format!("{name}: {e}"))?;
    }
    Ok(())
}

/// Puts kernel, ramdisk and device tree into a domain's memory, unless they lie there already.
pub(super) fn fill(
    hv: &'static Hypervisor<Riscv64>,
    domain: &DomainRef<Riscv64>,
    name: &str,
    kernel: &Kernel<'_>,
    plan: &DomainPlan,
    tree: &[u8],
) -> Result<(), String> {
    if plan.kernel.source != Source::InPlace {
        let mut at = plan.kernel.at.start();
        let mut sink = |bytes: &[u8]| {
            write_guest(domain, at, bytes)?;
            at += bytes.len() as u64;
            Ok(())
        };
        kernel
            .load(&mut sink)
            .map_err(|e| format!("{name}'s kernel: {e}"))?;
    }
    if let Some(placed) = plan.ramdisk
        && let Source::Copy(from) | Source::Unpack(from) = placed.source
    {
        // SAFETY: the module lies untouched until it is released, after this copy.
        let bytes = unsafe { bytes::<Own>(from) };
        write_guest(domain, placed.at.start(), bytes)
            .map_err(|_| format!("{name}'s ramdisk does not fit its place"))?;
    }
    write_guest(domain, plan.device_tree.start(), tree)
        .map_err(|_| format!("{name}'s device tree does not fit its place"))?;
    hv.console.offer_focus(domain.id());
    Ok(())
}

/// Lets a domain have devices of the machine: their registers where they are, their interrupts by its own controller.
fn give_devices(
    hv: &'static Hypervisor<Riscv64>,
    domain: &DomainRef<Riscv64>,
    devices: &[Device],
) -> Result<(), String> {
    for device in devices {
        let pages = device.registers.page_outer().unwrap_or_default();
        let (first, count) = (pages.start() >> PAGE_SHIFT, pages.size() >> PAGE_SHIFT);
        let (gfn, mfn) = (Gfn(first), Mfn(first));
        domain
            .p2m
            .map(gfn, mfn, count, P2mType::MmioDirect, &hv.tables(domain))
            .map_err(|e| format!("{} cannot be mapped: {e:?}", device.name))?;
    }
    if !devices.is_empty() {
        plic::give_to(domain.id());
    }
    for source in devices.iter().flat_map(|device| &device.sources) {
        plic::open(*source);
    }
    Ok(())
}

/// Lets a domain go: its first vCPU starts at the kernel with the device tree's address. Where there is no dom0, the first
/// domain has the keyboard.
pub(super) fn start(
    hv: &'static Hypervisor<Riscv64>,
    domain: &DomainRef<Riscv64>,
    plan: &DomainPlan,
) -> Result<(), String> {
    let boot_vcpu = VcpuRef::new(domain, VcpuId(0)).ok_or("a domain without vCPUs")?;
    // SAFETY: the vCPU has never been up.
    unsafe { boot_vcpu.arch.reset(plan.entry, plan.device_tree.start()) };
    if domain.id() == DomId(1) && hv.domains.get(DomId(0)).is_none() {
        hv.console.set_focus(Focus::Domain(domain.id()));
    }
    hv.domain_built(domain);
    hv.vcpu_up(&boot_vcpu);
    Ok(())
}
