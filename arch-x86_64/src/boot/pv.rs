//! Makes PV domains: dom0, and others beside it.
//!
//! A PV domain's memory comes from anywhere, the largest blocks first. dom0's files lie in memory that becomes free when they
//! have been copied, so it gets what it starts with before and the rest after that.

use alloc::{format, string::String};

use xenolith_abi::pv_start_info::StartFlags;
use xenolith_core::{
    DomId, DomainRef, Hypervisor, VcpuId, VcpuRef,
    boot::{
        PhysRange, RangeSet,
        elf::{Elf, pv::PvKernel},
        placement::dom0_memory,
    },
    domain::{Destroyed, GuestKind},
    memory::Place,
};
use xenolith_hal::{Gfn, Hal, Mfn, PAGE_SHIFT};

use super::{
    build::{self, Shape},
    dom0::{self, Machine},
    domains::release,
};
use crate::{
    X86_64,
    cpu::percpu::PerCpu,
    domain_build::{
        kind::Able,
        memory_map::MapError,
        pv::{
            frames::FrameMap,
            image::{Image, Memory},
            layout::{Layout, Request},
            start::PvStart,
            start_info::{Contents, MOST_TEXT},
        },
    },
    irq, machine,
    mm::{hyp::Direct, machine_to_phys},
    pv::{
        self,
        frame::Frame,
        machine::ThisCpu,
        memory::{AddressSpace, Level},
        vcpu::Segments,
    },
};

/// Whether guests run in ring 3 on this machine. The one place that turns PV on.
const PV_RUNS: bool = true;

/// What the machine can do.
pub(super) fn able() -> Able {
    Able {
        pvh: machine::virtualization().is_some(),
        pv: PV_RUNS,
    }
}

/// dom0's files.
pub(super) struct Files<'f> {
    /// Its kernel.
    pub(super) elf: Elf<'f>,
    /// Where that lies.
    pub(super) range: PhysRange,
    /// Its ramdisk, and the bytes of it that can be read.
    pub(super) ramdisk: Option<(PhysRange, &'f [u8])>,
    /// Its command line, elsewhere than where the loader left it.
    pub(super) command_line: &'f [u8],
}

/// A domain to be made.
pub(super) struct Recipe<'r> {
    /// As it is called on the console.
    pub(super) name: &'r str,
    pub(super) shape: Shape<'r>,
    /// Frames of memory.
    pub(super) frames: u64,
    pub(super) kernel: PvKernel<'r>,
    pub(super) ramdisk: Option<&'r [u8]>,
    pub(super) command_line: &'r [u8],
}

/// Makes dom0.
pub(super) fn build_dom0(
    hv: &'static Hypervisor<X86_64>,
    machine: &Machine<'_>,
    files: &Files<'_>,
    vcpus: u16,
    others: u64,
) -> Result<(), String> {
    let kernel = PvKernel::new(&files.elf).map_err(|e| format!("{e}"))?;
    if kernel.refuses_dom0() {
        return Err("kernel: it says that it cannot be dom0; build it with dom0 support".into());
    }
    let ramdisk = match files.ramdisk {
        Some((range, bytes)) if bytes.len() as u64 != range.size() => {
            return Err(format!("dom0: its ramdisk at {range} is not in RAM"));
        }
        other => other.map(|(_, bytes)| bytes),
    };
    // What the files lie in is nobody's until they are copied.
    let taken = [Some(files.range), files.ramdisk.map(|(range, _)| range)];
    let taken = taken.into_iter().flatten();
    let mut kept: RangeSet = taken.map(|r| r.page_outer().unwrap_or(r)).collect();
    machine.own.iter().for_each(|range| kept.remove(range));
    let own: RangeSet = machine.own.iter().chain(kept.iter()).collect();
    let own = &own;
    dom0::release_all(hv, &Machine { own, ..*machine });
    prepare(hv)?;

    let free = (hv.memory.free_frames() << PAGE_SHIFT).saturating_add(kept.size());
    let memory = &machine.options.dom0_mem;
    let asked = dom0_memory(memory, free, others);
    if asked > free {
        return Err(format!(
            "dom0: {}",
            MapError::TooLittleMemory { asked, free }
        ));
    }
    let most = memory.max.map_or(asked, |max| max.of(free).max(asked));
    let recipe = Recipe {
        name: "dom0",
        shape: Shape {
            id: DomId(0),
            vcpus,
            privileged: true,
            max_frames: most >> PAGE_SHIFT,
            direct_map: false,
            kind: GuestKind::Paravirtual,
            memory_map: machine
                .boot
                .map
                .iter()
                .map(build::e820_of_machine)
                .collect(),
            config_spaces: &machine.acpi.config_spaces,
            special_lines: &machine.acpi.madt.overrides,
        },
        frames: asked >> PAGE_SHIFT,
        kernel,
        ramdisk,
        command_line: files.command_line,
    };
    let release_files = || kept.iter().for_each(|range| release(hv, range));
    build(hv, recipe, release_files).map_err(|e| format!("dom0: {e}"))
}

/// Makes what all PV guests share: the table of machine frames.
fn prepare(hv: &'static Hypervisor<X86_64>) -> Result<(), String> {
    machine_to_phys::ensure(hv).map_err(|_| "no memory for the table of machine frames".into())
}

/// Makes a domain and lets it go. `copied` is called when its files are not needed any more.
pub(super) fn build(
    hv: &'static Hypervisor<X86_64>,
    recipe: Recipe<'_>,
    copied: impl FnOnce(),
) -> Result<(), String> {
    let layout = Layout::new(&Request {
        kernel: &recipe.kernel,
        frames: recipe.frames,
        ramdisk: recipe.ramdisk.map(|bytes| bytes.len() as u64),
        rings: !recipe.shape.privileged,
    })
    .map_err(|e| format!("{e}"))?;
    prepare(hv)?;
    if recipe.command_line.len() > MOST_TEXT {
        let name = recipe.name;
        log::warn!("{name}: its command line is cut off after {MOST_TEXT} bytes");
    }
    let domain = build::create(hv, &recipe.shape)?;
    if recipe.shape.privileged {
        irq::give_to(&domain);
    }
    log::info!(
        "{}: PV, {} vCPUs, {} MiB, entry {:#x}, start info at {:#x}",
        recipe.name,
        recipe.shape.vcpus,
        recipe.frames >> 8,
        recipe.kernel.entry,
        layout.address(layout.start_info)
    );
    let filled = fill(hv, &domain, &layout, recipe, copied);
    let start = filled.and_then(|start| check_tables(&domain, start));
    let start = match start {
        Ok(start) => start,
        Err(error) => {
            // Nothing of it ran: it goes in one piece unless interrupts come in between.
            while hv.destroy(&domain) == Destroyed::NotYet {}
            return Err(error);
        }
    };
    begin(hv, &domain, &start)
}

/// Memory in the direct map.
struct Machinery;

impl Memory for Machinery {
    fn write(&mut self, frame: Mfn, offset: usize, bytes: &[u8]) -> Option<()> {
        Direct::write(frame, offset, bytes).ok()
    }

    fn zero(&mut self, frame: Mfn, offset: usize, len: usize) -> Option<()> {
        const ZEROES: [u8; xenolith_hal::PAGE_SIZE] = [0; xenolith_hal::PAGE_SIZE];
        Direct::write(frame, offset, ZEROES.get(..len)?).ok()
    }
}

/// Gives a domain memory until it has so many frames.
fn grow(
    hv: &'static Hypervisor<X86_64>,
    domain: &DomainRef<X86_64>,
    frames: &mut FrameMap,
    wanted: u64,
    whole: u64,
) -> Result<(), String> {
    while frames.len() < wanted {
        let first = Gfn(frames.len());
        let (mfn, order) = hv
            .allocate_largest_for(domain, whole - first.0, Place::ANY)
            .map_err(|_| "memory ran out")?;
        // dom0 may see what firmware and loader left, as everywhere; others may not.
        if !domain.config.privileged {
            hv.hal.zero_frames(mfn, order);
        }
        for at in 0..1 << order {
            hv.hal
                .set_machine_to_phys(mfn.plus(at), Some(first.plus(at)));
        }
        frames.push(mfn, 1 << order);
    }
    Ok(())
}

/// Gives a new domain its memory and what goes in.
fn fill(
    hv: &'static Hypervisor<X86_64>,
    domain: &DomainRef<X86_64>,
    layout: &Layout,
    recipe: Recipe<'_>,
    copied: impl FnOnce(),
) -> Result<PvStart, String> {
    let mut frames = FrameMap::default();
    grow(hv, domain, &mut frames, layout.used, layout.frames)?;
    let flags = match recipe.shape.privileged {
        true => StartFlags::PRIVILEGED | StartFlags::INITDOMAIN,
        false => StartFlags::empty(),
    };
    let image = Image {
        kernel: &recipe.kernel,
        layout,
        ramdisk: recipe.ramdisk.unwrap_or_default(),
        contents: Contents {
            flags,
            command_line: recipe.command_line,
            shared_info: domain.shared_info.base(),
            store_port: 0,
            console_port: 0,
            screen: None,
        },
    };
    image
        .write(&frames, &mut Machinery)
        .map_err(|e| format!("{e}"))?;
    let start = PvStart::new(&recipe.kernel, layout, &frames);
    copied();
    // Nothing of the files is read from here on.
    grow(hv, domain, &mut frames, layout.frames, layout.frames)?;
    image
        .finish(&frames, &mut Machinery)
        .map_err(|e| format!("{e}"))?;
    start.ok_or_else(|| "its root table is missing".into())
}

/// Has the tables checked as the guest's own would be, and pins the root: from here on nothing is written past the checks.
fn check_tables(domain: &DomainRef<X86_64>, start: PvStart) -> Result<PvStart, String> {
    let cpu = ThisCpu(PerCpu::try_current().ok_or("no CPU to check its tables")?);
    let tables = cpu.tables();
    let work = AddressSpace::new();
    let pin = || tables.pin(start.root, Level::L4, &tables.own_rights(domain), &work);
    tables
        .insist(pin)
        .map_err(|e| format!("its first tables are refused: {}", e.name()))?;
    Ok(start)
}

/// Lets a domain go with these registers.
fn begin(
    hv: &'static Hypervisor<X86_64>,
    domain: &DomainRef<X86_64>,
    start: &PvStart,
) -> Result<(), String> {
    let vcpu = VcpuRef::new(domain, VcpuId(0)).ok_or("a domain without vCPUs")?;
    let pv = vcpu.arch.pv().ok_or("a vCPU of another kind")?;
    let regs = start.regs;
    let frame = Frame {
        rip: regs.rip,
        cs: regs.cs.into(),
        rflags: regs.rflags,
        rsp: regs.rsp,
        ss: regs.ss.into(),
        rsi: regs.rsi,
        ..Frame::default()
    };
    // SAFETY: the vCPU has never been up: nobody else touches its state.
    unsafe { *pv.frame.get() = frame };
    pv.segments.set(Segments {
        ds: regs.ds,
        es: regs.es,
        fs: regs.fs,
        gs: regs.gs,
        ..Segments::default()
    });
    pv::start::set_roots(&vcpu, start.root, None).map_err(|e| format!("its root: {}", e.name()))?;
    pv.has_registers.set(true);
    hv.domain_built(domain);
    hv.vcpu_up(&vcpu);
    Ok(())
}
