//! What every domain made at boot needs: tables, vCPUs in the state that PVH starts with, bytes in its memory.

use alloc::{boxed::Box, format, string::String, vec::Vec};

use xenolith_core::{
    DomId, DomainRef, Hypervisor, VcpuId, VcpuRef,
    boot::elf::Elf,
    domain::{DomainConfig, GuestKind},
};
use xenolith_hal::{
    E820Entry, Gfn, HostPhys, NoMemory, P2m, PAGE_SHIFT, PAGE_SIZE,
    sync::{Mutex, Rank},
};

use super::info::MapEntry;
use crate::{
    X86_64,
    acpi::{madt::Override, summary::ConfigSpace},
    cpu::{cpuid::cpuid, microcode},
    cpuid::{
        DomainFacts, Handled, Policy,
        pv::{PvFacts, address_bits},
        xen,
    },
    domain_build::memory_map::GuestEntry,
    guest::{
        backend::Backend,
        fpu::{self, FpuContext},
        hardware::{Hardware, Segment, SegmentName},
        pci::Pci,
        port,
        vcpu::{ArchDomain, ArchVcpu, HwVcpu},
    },
    ioapic,
    irq::pirqs::Pirqs,
    machine::{self, Virtualization},
    mm::{hardware, hyp::Direct, nested, second_level},
    msr::{HostMsrs, MsrPolicy},
    pci::Wants,
    pv::domain::PvDomain,
    speculation,
    svm::{self, vcpu::Svm},
    timer,
    vioapic::VIoApic,
    vmx,
};

/// What is particular to a domain when it is made.
pub(super) struct Shape<'s> {
    pub(super) id: DomId,
    pub(super) vcpus: u16,
    pub(super) privileged: bool,
    pub(super) max_frames: u64,
    pub(super) direct_map: bool,
    pub(super) kind: GuestKind,
    pub(super) memory_map: Vec<E820Entry>,
    /// Where the configuration of PCI devices is in memory, for the domain that owns them.
    pub(super) config_spaces: &'s [ConfigSpace],
    /// Interrupt lines that signal otherwise than lines of their number do, for the same domain.
    pub(super) special_lines: &'s [Override],
}

fn host_leaf(leaf: u32, subleaf: u32) -> [u32; 4] {
    let r = cpuid(leaf, subleaf);
    [r.eax, r.ebx, r.ecx, r.edx]
}

/// What the domain reads through CPUID.
fn policy(shape: &Shape<'_>) -> Policy {
    let handled = Handled {
        xsave: fpu::kind().states.is_some(),
        spec_ctrl: speculation::apply::guests_have_controls(),
        ..Handled::default()
    };
    let rate = timer::rate();
    let khz = timer::kilohertz() as u32;
    let time = xen::Time {
        tsc_khz: khz,
        host_khz: khz,
        offset: 0,
        multiplier: rate.factor,
        shift: rate.shift,
        reliable: timer::together(),
        incarnation: 1,
    };
    let facts = DomainFacts {
        domain: shape.id.0,
        vcpus: shape.vcpus.into(),
        time,
        container: xen::Container {
            upcall_vector: true,
            ..xen::Container::default()
        },
        invariant_tsc: timer::together(),
    };
    match shape.kind {
        GuestKind::Translated => Policy::maximum(host_leaf, handled).for_domain(&facts),
        GuestKind::Paravirtual => {
            let handled = Handled {
                tsc_aux: true,
                ..handled
            };
            let of_pv = PvFacts {
                hardware: shape.privileged,
                address_bits: address_bits(machine::ram_end() >> PAGE_SHIFT),
            };
            Policy::paravirtual(host_leaf, handled, &facts, &of_pv)
        }
    }
}

/// What the domain is told of the host's MSRs.
fn host_msrs(kind: GuestKind) -> HostMsrs {
    match kind {
        GuestKind::Translated => HostMsrs::default(),
        GuestKind::Paravirtual => HostMsrs {
            microcode_revision: microcode::register(),
            arch_capabilities: speculation::apply::arch_capabilities(),
        },
    }
}

/// As many vCPUs of a domain as can be made.
fn vcpus(shape: &Shape<'_>, hardware: impl Fn() -> Option<HwVcpu>) -> Vec<ArchVcpu> {
    (0..usize::from(shape.vcpus))
        .map_while(|i| Some(ArchVcpu::new(i, hardware()?, FpuContext::new()?)))
        .collect()
}

/// vCPUs in the CPU's virtualization, and the ports that they reach.
fn hardware_vcpus(
    hv: &'static Hypervisor<X86_64>,
    shape: &Shape<'_>,
) -> Result<(Option<HostPhys>, Vec<ArchVcpu>), String> {
    let none = || format!("domain {} cannot be made: no memory", shape.id.0);
    let virtualization = machine::virtualization().ok_or("no way to run guests")?;
    let ports = if shape.privileged {
        let map = match virtualization {
            Virtualization::Svm(_) => svm::cpu::port_map(hv, &port::KEPT),
            Virtualization::Vmx(_) => vmx::cpu::port_map(hv, &port::KEPT),
        };
        Some(map.ok_or_else(none)?)
    } else {
        None
    };
    let hardware = || {
        Some(match virtualization {
            Virtualization::Svm(features) => {
                HwVcpu::Svm(svm::vcpu::SvmVcpu::new(hv, features, 0, ports)?)
            }
            Virtualization::Vmx(features) => {
                HwVcpu::Vmx(vmx::vcpu::VmxVcpu::new(hv, features, 0, ports)?)
            }
        })
    };
    Ok((ports, vcpus(shape, hardware)))
}

/// Makes a domain with nothing in it.
pub(super) fn create(
    hv: &'static Hypervisor<X86_64>,
    shape: &Shape<'_>,
) -> Result<DomainRef<X86_64>, String> {
    let none = || format!("domain {} cannot be made: no memory", shape.id.0);
    let (ports, vcpus) = match shape.kind {
        GuestKind::Translated => hardware_vcpus(hv, shape)?,
        GuestKind::Paravirtual => (None, vcpus(shape, || Some(HwVcpu::Pv(Box::default())))),
    };
    if vcpus.len() != usize::from(shape.vcpus) {
        return Err(none());
    }
    let translated = shape.kind == GuestKind::Translated;
    let policy = policy(shape);
    let msrs = MsrPolicy::new(&policy, host_msrs(shape.kind));
    // Only whose lines lead to devices has an IOAPIC.
    let ioapic = (shape.privileged && translated).then(|| {
        let pins = ioapic::lines().clamp(24, 240) as u8;
        Mutex::new(Rank::Interrupts, VIoApic::new(0, 0, pins))
    });
    let arch = ArchDomain {
        callback_vector: 0.into(),
        tsc_offset: 0,
        ports,
        owns_devices: shape.privileged,
        pci: shape.privileged.then(|| {
            let wants = match translated {
                true => Wants::Messages,
                false => Wants::Numbers,
            };
            Pci::new(shape.config_spaces, wants)
        }),
        pirqs: (shape.privileged && !translated)
            .then(|| Pirqs::new(shape.special_lines.iter().map(Override::line))),
        memory_map: shape.memory_map.clone(),
        policy,
        msrs,
        pv: (!translated).then(PvDomain::new),
        ioapic,
    };
    let config = DomainConfig {
        id: shape.id,
        vcpus: shape.vcpus,
        privileged: shape.privileged,
        max_frames: shape.max_frames,
        direct_map: shape.direct_map,
        kind: shape.kind,
    };
    let limits = machine::paging_limits();
    let domain = hv
        .create_domain(config, arch, vcpus, |tables| {
            let root = tables.allocate()?;
            let shape =
                second_level::shape(limits.physical_bits.into(), machine::gigabyte_blocks());
            let memory = hardware::Hardware(nested::Flushes::default());
            Ok::<_, NoMemory>(nested::Nested::new(memory, shape, root))
        })
        .map_err(|e| format!("domain {} cannot be made: {}", shape.id.0, e.name()))?;
    hv.update_wallclock(&domain);
    Ok(domain)
}

/// Writes bytes into a domain's memory; false where it has none.
pub(super) fn write_guest(domain: &DomainRef<X86_64>, at: u64, bytes: &[u8]) -> bool {
    each_page(at, bytes.len() as u64, |address, offset, len| {
        let entry = domain.p2m.lookup(Gfn(address >> PAGE_SHIFT))?;
        let part = bytes.get(offset as usize..(offset + len) as usize)?;
        Direct::write(entry.mfn, address as usize % PAGE_SIZE, part).ok()
    })
}

/// Puts a kernel's segments where they belong.
pub(super) fn load(domain: &DomainRef<X86_64>, name: &str, kernel: &Elf<'_>) -> Result<(), String> {
    for segment in &kernel.segments {
        let filled = segment.bytes.len() as u64;
        let at = segment.memory.start();
        if !write_guest(domain, at, segment.bytes)
            || !zero_guest(domain, at + filled, segment.memory.size() - filled)
        {
            return Err(format!(
                "{name}: no memory for its kernel at {}",
                segment.memory
            ));
        }
    }
    Ok(())
}

/// An entry of a domain's memory map as `memory_op` tells it.
pub(super) fn e820(entry: &GuestEntry) -> E820Entry {
    E820Entry {
        addr: entry.range.start(),
        size: entry.range.size(),
        kind: entry.kind.number(),
    }
}

/// An entry of the machine's memory map in the same form.
pub(super) fn e820_of_machine(entry: &MapEntry) -> E820Entry {
    E820Entry {
        addr: entry.range.start(),
        size: entry.range.size(),
        kind: entry.kind,
    }
}

/// Fills a range of a domain's memory with zeroes; false where it has none.
pub(super) fn zero_guest(domain: &DomainRef<X86_64>, at: u64, len: u64) -> bool {
    const ZEROES: [u8; PAGE_SIZE] = [0; PAGE_SIZE];
    each_page(at, len, |address, _, len| {
        let entry = domain.p2m.lookup(Gfn(address >> PAGE_SHIFT))?;
        let part = ZEROES.get(..len as usize)?;
        Direct::write(entry.mfn, address as usize % PAGE_SIZE, part).ok()
    })
}

/// Calls `f` for the part of a range in each page: address, offset in the range, length.
fn each_page(at: u64, len: u64, mut f: impl FnMut(u64, u64, u64) -> Option<()>) -> bool {
    let mut done = 0;
    while done < len {
        let address = at + done;
        let here = (PAGE_SIZE as u64 - address % PAGE_SIZE as u64).min(len - done);
        if f(address, done, here).is_none() {
            return false;
        }
        done += here;
    }
    true
}

/// Lets a domain go: its first vCPU starts as the PVH boot protocol says (`arch-x86/hvm/start_info.h`): 32-bit protected
/// mode without paging, flat segments, EBX = start info.
pub(super) fn start(
    hv: &'static Hypervisor<X86_64>,
    domain: &DomainRef<X86_64>,
    entry: u32,
    start_info: u64,
) -> Result<(), String> {
    let vcpu = VcpuRef::new(domain, VcpuId(0)).ok_or("a domain without vCPUs")?;
    // SAFETY: the vCPU has never been up: nobody else touches its state.
    unsafe {
        match &vcpu.arch.hw {
            HwVcpu::Svm(_) => set_start(&mut *Svm::hardware(&vcpu.arch), entry),
            HwVcpu::Vmx(vmx) => vmx.with_current(|hw| set_start(hw, entry)),
            HwVcpu::Pv(_) => return Err("a PV guest has another way to start".into()),
        }
        (*vcpu.arch.regs_ptr()).rbx = start_info;
    }
    hv.domain_built(domain);
    hv.vcpu_up(&vcpu);
    Ok(())
}

fn set_start<H: Hardware>(hw: &mut H, entry: u32) {
    hw.reset();
    let flat = |attributes| Segment {
        selector: 0,
        attributes,
        limit: u32::MAX,
        base: 0,
    };
    const CODE: u16 = 0xc9b;
    const DATA: u16 = 0xc93;
    for name in [SegmentName::Ds, SegmentName::Es, SegmentName::Ss] {
        hw.set_segment(name, flat(DATA));
    }
    hw.set_segment(SegmentName::Cs, flat(CODE));
    hw.set_cr0(0x11);
    hw.set_rip(entry.into());
}
