//! What every domain made at boot needs, whatever kind it is: tables, memory filled with its kernel, a first vCPU.

use alloc::{format, string::String, vec::Vec};

use xenolith_abi::hvm::Param;
use xenolith_arch_common::boot_memory::bytes;
use xenolith_core::{
    DomId, DomainRef, Hypervisor, VcpuId, VcpuRef,
    boot::{
        PhysRange,
        gzip::SinkFull,
        image::Kernel,
        initrd,
        modules::Module,
        placement::{DomainPlan, Source},
    },
    domain::{DomainConfig, GuestKind},
    hypercall::hvm,
};
use xenolith_hal::{Gfn, NoMemory, P2m, PAGE_SHIFT, PAGE_SIZE, TableFrames};

use super::Machine;
use crate::{
    Aarch64,
    gic::Gic,
    guest::{
        frames::GicFrames,
        vcpu::{ArchDomain, ArchVcpu},
    },
    irq,
    mm::{
        direct,
        hardware::{Hardware, Stage2},
        hyp::El2,
        stage2::Geometry,
    },
    vgic::{VgicConfig, VgicDomain},
};

/// A type of event interrupt: a private peripheral interrupt, as `HVM_PARAM_CALLBACK_IRQ` says it (`public/hvm/params.h`).
const CALLBACK_TYPE_PPI: u64 = 2 << 56;
/// Level-triggered and active low, as the device tree says it.
const CALLBACK_PPI_FLAGS: u64 = 1 << 9;

/// How many domains have a VMID of their own: 8 bits, number 0 unused.
const MOST_DOMAINS: u16 = 255;

/// First frame and number of frames.
pub(super) fn frames(range: PhysRange) -> (u64, u64) {
    (range.start() >> PAGE_SHIFT, range.size() >> PAGE_SHIFT)
}

/// What is particular to a domain when it is made.
pub(super) struct Shape {
    pub(super) id: DomId,
    pub(super) vcpus: u32,
    pub(super) privileged: bool,
    pub(super) max_frames: u64,
    pub(super) direct_map: bool,
    pub(super) lines: u32,
    pub(super) frames: GicFrames,
    pub(super) event_ppi: u32,
    pub(super) counter_offset: u64,
    pub(super) uart: bool,
}

/// Makes a domain with nothing in it.
pub(super) fn create(
    hv: &'static Hypervisor<Aarch64>,
    machine: &Machine<'_>,
    gic: &Gic,
    shape: &Shape,
) -> Result<DomainRef<Aarch64>, String> {
    if shape.id.0 >= MOST_DOMAINS {
        return Err(format!(
            "domain {}: there are only {MOST_DOMAINS} VMIDs",
            shape.id.0
        ));
    }
    let vgic = VgicDomain::new(&VgicConfig {
        version: gic.version(),
        vcpus: shape.vcpus as usize,
        lines: shape.lines,
        ppis: gic.ppis(),
    });
    let vcpus: Vec<ArchVcpu> = (0..shape.vcpus as usize)
        .filter_map(|i| Some(ArchVcpu::new(i, vgic.vcpu(i)?.clone())))
        .collect();
    let mut arch = ArchDomain::new(vgic, shape.frames, shape.event_ppi, shape.counter_offset);
    if shape.uart {
        arch = arch.with_uart();
    }
    let config = DomainConfig {
        id: shape.id,
        vcpus: shape.vcpus as u16,
        privileged: shape.privileged,
        max_frames: shape.max_frames,
        direct_map: shape.direct_map,
        kind: GuestKind::Translated,
    };
    let domain = hv
        .create_domain(config, arch, vcpus, |tables| {
            new_stage2(machine.geometry, tables, shape.id.0 + 1)
        })
        .map_err(|e| format!("domain {} cannot be made: {}", shape.id.0, e.name()))?;
    let callback = CALLBACK_TYPE_PPI | CALLBACK_PPI_FLAGS | u64::from(shape.event_ppi);
    hvm::set_param(&domain, Param::CallbackIrq, callback);
    hv.update_wallclock(&domain);
    Ok(domain)
}

/// Empty stage 2 tables.
fn new_stage2(geometry: Geometry, tables: &dyn TableFrames, vmid: u16) -> Result<Stage2, NoMemory> {
    let root = tables.allocate_block(geometry.root_order())?;
    Ok(Stage2::new(Hardware, geometry, root, vmid))
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
fn clean_guest(domain: &DomainRef<Aarch64>, range: PhysRange) {
    let mut at = range.start();
    while at < range.end() {
        let Some(entry) = domain.p2m.lookup(Gfn(at >> PAGE_SHIFT)) else {
            return;
        };
        // As far as the block that translates it goes.
        let block = (PAGE_SIZE as u64) << entry.order;
        let len = (block - (at & (block - 1))).min(range.end() - at);
        let host = entry.mfn.base().0 + (at & (PAGE_SIZE as u64 - 1));
        direct::clean_to_memory(xenolith_hal::HostPhys(host), len);
        at += len;
    }
}

/// Puts kernel, ramdisk and device tree into a domain's memory. The ramdisk is read with caches on, so only what is read
/// before that is cleaned to memory.
pub(super) fn fill(
    domain: &DomainRef<Aarch64>,
    name: &str,
    kernel: &Kernel<'_>,
    plan: &DomainPlan,
    tree: &[u8],
) -> Result<(), String> {
    let mut length = kernel.length;
    if plan.kernel.source != Source::InPlace {
        let mut at = plan.kernel.at.start();
        let mut sink = |bytes: &[u8]| {
            write_guest(domain, at, bytes)?;
            at += bytes.len() as u64;
            Ok(())
        };
        length = kernel
            .load(&mut sink)
            .map_err(|e| format!("{name}'s kernel: {e}"))?;
    }
    clean_guest(
        domain,
        PhysRange::new(plan.kernel.at.start(), length).unwrap_or_default(),
    );
    if let Some(placed) = plan.ramdisk
        && let Source::Copy(from) | Source::Unpack(from) = placed.source
    {
        // SAFETY: the module lies untouched until it is released, after this copy.
        let bytes = unsafe { bytes::<El2>(from) };
        write_guest(domain, placed.at.start(), bytes)
            .map_err(|_| format!("{name}'s ramdisk does not fit its place"))?;
    }
    write_guest(domain, plan.device_tree.start(), tree)
        .map_err(|_| format!("{name}'s device tree does not fit its place"))?;
    clean_guest(domain, plan.device_tree);
    Ok(())
}

/// What there is to say of a domain's ramdisk before the domain gets it.
pub(super) fn ramdisk_warning(
    name: &str,
    ramdisk: Option<&Module<'_>>,
    line: &str,
) -> Option<String> {
    // SAFETY: the module lies untouched until the domain is built.
    let file = ramdisk.map(|module| (module.range, unsafe { bytes::<El2>(module.range) }));
    initrd::warning(name, file, line)
}

/// Lets a domain go: its first vCPU starts at the kernel with the device tree's address.
pub(super) fn start(
    hv: &'static Hypervisor<Aarch64>,
    domain: &DomainRef<Aarch64>,
    plan: &DomainPlan,
) -> Result<(), String> {
    let boot_vcpu = VcpuRef::new(domain, VcpuId(0)).ok_or("a domain without vCPUs")?;
    // SAFETY: the vCPU has never been up.
    unsafe { boot_vcpu.arch.reset(plan.entry, plan.device_tree.start()) };
    hv.domain_built(domain);
    hv.vcpu_up(&boot_vcpu);
    Ok(())
}

/// The interrupt controller, which start-up has set up before any domain is made.
pub(super) fn gic() -> Result<&'static Gic, String> {
    irq::gic().ok_or_else(|| String::from("no interrupt controller"))
}
