//! The boot CPU's way through start-up.

use xenolith_arch_common::{boot_memory, console::hand_over, set_source};
use xenolith_core::{
    Hypervisor,
    boot::{PhysRange, RangeSet, cmdline, memory::BootMemory},
    memory::Place,
};
use xenolith_hal::{CpuId, HostPhys, PAGE_SIZE, sync::while_waiting};

use super::{
    build, dom0, domains,
    info::{self, BootInfo, Protocol},
    smp,
};
use crate::{
    X86_64,
    acpi::{self, Acpi, summary::ConfigSpace},
    apic, console, cpu,
    ioapic::{self, Line},
    irq, machine,
    mm::{
        firmware,
        hyp::{self, FourLevels},
        peephole,
    },
    power, pv, speculation, timer,
};

/// Memory below this is firmware's and real mode's, and not used otherwise.
const LOW: PhysRange = PhysRange::between(0, 1 << 20);

/// The first Rust code, on the boot CPU: on the boot stack, with the image mapped and nothing else.
pub(super) extern "C" fn primary(magic: u32, information: u32, image: u64) -> ! {
    hyp::init(HostPhys(image));
    console::init();
    cpu::start(CpuId(0));
    let Some(protocol) = Protocol::from_magic(magic) else {
        refuse(format_args!(
            "started by an unknown protocol (magic {magic:#x}): use PVH, Multiboot 1 or Multiboot 2"
        ))
    };
    match info::read(protocol, information.into(), &firmware::bytes) {
        Ok(info) => start(protocol, &info),
        Err(error) => refuse(format_args!("{}: {error}", protocol.name())),
    }
}

/// Start-up cannot go on, and says why.
fn refuse(why: core::fmt::Arguments<'_>) -> ! {
    log::error!("{why}");
    log::error!("start-up ends here");
    cpu::fault::stop()
}

fn start(protocol: Protocol, boot: &BootInfo<'_>) -> ! {
    log::info!(
        "Xenolith {} on x86-64, {}",
        env!("CARGO_PKG_VERSION"),
        protocol.name()
    );
    let image = boot_memory::image::<FourLevels>();
    let mut ram = memory(boot);
    ram.occupy(image);
    let trampoline = low_page(&ram).unwrap_or_else(|| {
        refuse(format_args!(
            "no page of RAM below 640 KiB is free to start other CPUs from"
        ))
    });
    ram.occupy(LOW);
    boot_memory::report(&ram);
    let own = boot_memory::map_ram::<FourLevels>(&mut ram, image)
        .unwrap_or_else(|e| refuse(format_args!("{e}")));
    ram.occupy(own.range);
    let allocator = boot_memory::start_allocator::<FourLevels>(&ram, &own)
        .unwrap_or_else(|e| refuse(format_args!("{e}")));
    let hv = boot_memory::leak(Hypervisor::new(X86_64, allocator));
    HV.call_once(|| hv);
    while_waiting(|| {
        pv::flush::answer();
        cpu::errand::serve();
    });
    hand_over(|record| {
        if let Some(hv) = HV.get() {
            hv.console.print_record(&hv.hal, record);
        }
    });
    set_source(|order| HV.get()?.memory.allocate(order, Place::ANY));
    hv.command_line.call_once(|| boot.command_line.into());
    let (options, warnings) = cmdline::parse(boot.command_line);
    for warning in warnings {
        log::warn!("{warning}");
    }

    let root = boot.rsdp.or_else(|| acpi::find_root(&firmware::bytes));
    let acpi = Acpi::read(root.unwrap_or(0), &firmware::bytes)
        .unwrap_or_else(|e| refuse(format_args!("{e}")));
    report_acpi(&acpi);
    timer::init(&acpi).unwrap_or_else(|e| refuse(format_args!("{e}")));
    power::init(&acpi);
    cpu::nmi::init(options.nmi);
    timer::read_clock();
    apic::init(HostPhys(acpi.madt.local_apic), options.x2apic)
        .unwrap_or_else(|e| refuse(format_args!("{e}")));
    let requests = speculation::Requests {
        xpti: options.xpti.as_deref(),
        pcid: options.pcid.as_deref(),
        smep: options.smep.as_deref(),
        smap: options.smap.as_deref(),
    };
    speculation::apply::init(options.spec_ctrl.as_deref(), &requests);
    if let Err(error) = machine::find_virtualization(options.apicv) {
        log::warn!("{error}");
    }
    let boot_cpu = smp::join(hv, CpuId(0));
    apic::take_machines_nmis();
    timer::calibrate_apic();
    let most = options.max_cpus.unwrap_or(u32::MAX).max(1) as usize;
    smp::start_others(hv, acpi.apic_ids(), most, trampoline);
    cpu::microcode::report(hv.sched.online_cpus());
    log::info!(
        "{} CPUs, {} MiB of RAM",
        hv.sched.online_cpus().len(),
        hv.memory.table().frames() >> 8,
    );
    let places: alloc::vec::Vec<(u64, u32)> = acpi
        .madt
        .ioapics
        .iter()
        .map(|ioapic| (ioapic.at.into(), ioapic.first))
        .collect();
    ioapic::init(&places).unwrap_or_else(|e| refuse(format_args!("{e}")));
    let (line, how) = console_line(&acpi);
    irq::bind_console(line, how);
    let page = |at: u64| PhysRange::new(at & !(PAGE_SIZE as u64 - 1), PAGE_SIZE as u64);
    let registers = places.iter().map(|place| place.0);
    let registers = registers.chain([acpi.madt.local_apic]).chain(acpi.hpet);
    let units = acpi.iommus.iter().flat_map(|iommus| &iommus.units);
    let units = units.filter(|unit| !ram.ram.overlaps(unit));
    let kept: alloc::vec::Vec<PhysRange> =
        registers.filter_map(page).chain(units.copied()).collect();
    let mut hidden: RangeSet = kept.iter().copied().collect();
    machine::keep(kept.into_iter());
    let spaces = acpi.config_spaces.iter();
    spaces
        .filter_map(ConfigSpace::range)
        .for_each(|range| hidden.insert(range));
    peephole::init(HostPhys(acpi.madt.local_apic)).unwrap_or_else(|e| refuse(format_args!("{e}")));
    machine::set_ram(ram.ram.clone());
    machine::set_processors(acpi.madt.cpus.iter().map(|cpu| (cpu.id, cpu.uid)));
    machine::set_memory_map(boot.map.iter().map(build::e820_of_machine).collect());
    let free = ram.free();
    let machine = dom0::Machine {
        boot,
        options: &options,
        acpi: &acpi,
        own: &[image, own.range].into_iter().collect(),
        hidden: &hidden,
        cpus: hv.sched.online_cpus().len(),
    };
    domains::build_all(hv, &machine, free).unwrap_or_else(|e| refuse(format_args!("{e}")));
    // This CPU, which takes the port's interrupts, opens them from now on.
    console::buffer();
    smp::run(boot_cpu)
}

/// Tells of what the tables name and nothing is done with.
fn report_acpi(acpi: &Acpi<'_>) {
    if let Some(srat) = &acpi.srat {
        log::info!("NUMA: {srat}");
    }
    for iommus in &acpi.iommus {
        log::info!("IOMMUs: {iommus}");
    }
}

/// The line of the first serial port: its number on the old bus, unless ACPI says otherwise.
fn console_line(acpi: &Acpi<'_>) -> (u32, Line) {
    let mut found = acpi.madt.overrides.iter();
    match found.find(|o| o.source == console::COM1_IRQ) {
        Some(entry) => entry.line(),
        None => (console::COM1_IRQ.into(), Line::OLD),
    }
}

/// RAM as the loader's map tells it: where entries overlap, what is not RAM wins.
fn memory(boot: &BootInfo<'_>) -> BootMemory {
    const RAM: u32 = 1;
    let mut memory = BootMemory::default();
    for entry in boot.map.iter().filter(|entry| entry.kind == RAM) {
        memory.ram.insert(entry.range);
    }
    for entry in boot.map.iter().filter(|entry| entry.kind != RAM) {
        memory.ram.remove(entry.range);
    }
    let modules = boot.modules.iter().map(|module| &module.range);
    let taken = boot.loaded.iter().chain(modules);
    taken.for_each(|range| memory.occupy(*range));
    memory
}

/// A free page that real mode reaches; not the first one, which holds the BIOS's interrupt table.
fn low_page(ram: &BootMemory) -> Option<HostPhys> {
    const CONVENTIONAL: u64 = 0xa_0000;
    let mut free = ram.free();
    free.remove(PhysRange::between(CONVENTIONAL, u64::MAX));
    free.remove(PhysRange::between(0, PAGE_SIZE as u64));
    Some(free.highest_fit(PAGE_SIZE as u64, PAGE_SIZE as u64)?.base())
}

static HV: spin::Once<&'static Hypervisor<X86_64>> = spin::Once::new();
