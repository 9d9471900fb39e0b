//! Start-up of the machine: from the first Rust instruction to the first guest.

mod build;
mod dom0;
mod domains;
mod domu;
mod early;
mod head;
mod interrupts;
mod last_resort;
mod smp;

pub use last_resort::KnownUart;
use xenolith_arch_common::{boot_memory, set_source};
use xenolith_core::{
    Hypervisor,
    boot::{
        PhysRange,
        cmdline::{self, LogLevel, Options},
        fdt::{NodeId, Tree},
        memory::BootMemory,
        modules::{self, BootInfo},
    },
    memory::Place,
};
use xenolith_hal::{CpuId, HostPhys, MAX_CPUS};

use crate::{
    Aarch64, console, cpu,
    domain_build::Host,
    guest::sysreg,
    mm::{
        hyp::{self, El2},
        stage2::Geometry,
    },
    smccc, timer,
};

/// The first Rust code, on the boot CPU: MMU on, on the boot stack, with the image mapped and nothing else.
extern "C" fn primary(device_tree: HostPhys, image: HostPhys) -> ! {
    cpu::regs::write!("tpidr_el2", 0);
    cpu::vectors::install();
    hyp::init(image);
    console::init_log();
    let blob = early::map_tree(device_tree);
    let tree = blob
        .and_then(|blob| Tree::parse(blob).map_err(|error| early::NoTree::Bad(device_tree, error)));
    match &tree {
        Ok(tree) => start(tree, PhysRange::new(device_tree.0, tree.size() as u64)),
        Err(error) => {
            last_resort::prepare();
            refuse(format_args!("{error}"))
        }
    }
}

/// Start-up cannot go on, and says why.
fn refuse(why: core::fmt::Arguments<'_>) -> ! {
    log::error!("{why}");
    log::error!("start-up ends here");
    cpu::fault::stop()
}

/// What start-up learned of the machine.
struct Machine<'a> {
    tree: &'a Tree<'a>,
    host: Host<'a>,
    console: Option<NodeId>,
    options: Options,
    boot: BootInfo<'a>,
    geometry: Geometry,
}

fn start(tree: &Tree<'static>, blob: Option<PhysRange>) -> ! {
    early::find_firmware(tree);
    // Modules are read only after RAM is mapped; the command line can be known now.
    let early_options =
        BootInfo::from_tree(tree, &|_| None).map(|info| cmdline::parse(info.command_line).0);
    let dtuart = early_options.ok().and_then(|options| options.dtuart);
    let console = early::start_console(tree, dtuart.as_deref());
    let hz = timer::init(0);
    log::info!(
        "Xenolith {} on ARMv8, timer {} kHz, {}",
        env!("CARGO_PKG_VERSION"),
        hz / 1000,
        match smccc::psci_version() {
            Some((major, minor)) => alloc::format!("PSCI {major}.{minor}"),
            None => "no PSCI firmware".into(),
        }
    );
    let image = boot_memory::image::<El2>();
    let mut ram = BootMemory::from_tree(tree).unwrap_or_else(|e| refuse(format_args!("{e}")));
    ram.occupy(image);
    let blob = blob.unwrap_or_default();
    ram.hold(blob);
    for place in modules::places(tree) {
        ram.hold(place);
    }
    let own = boot_memory::map_ram::<El2>(&mut ram, image)
        .unwrap_or_else(|e| refuse(format_args!("{e}")));
    ram.occupy(own.range);
    let allocator = boot_memory::start_allocator::<El2>(&ram, &own)
        .unwrap_or_else(|e| refuse(format_args!("{e}")));
    let hv = boot_memory::leak(Hypervisor::new(Aarch64, allocator));
    HV.call_once(|| hv);
    console::hand_over(hv);
    if let Some((name, driver)) = console.left_out {
        log::warn!(
            "the console's UART {name} is left alone: this image was built without its driver, feature {driver}"
        );
    }
    set_source(|order| HV.get()?.memory.allocate(order, Place::ANY));

    let boot = BootInfo::from_tree(tree, &boot_memory::first_word::<El2>)
        .unwrap_or_else(|e| refuse(format_args!("{e}")));
    let (options, warnings) = cmdline::parse(boot.command_line);
    apply(hv, &options, boot.command_line);
    for warning in warnings {
        log::warn!("{warning}");
    }
    if let Err(error) = ram.check_modules(&boot.modules(), image, blob) {
        refuse(format_args!("{error}"));
    }
    boot_memory::warn_of_unused(&boot, &ram, image, blob);
    let host = Host::from_tree(tree).unwrap_or_else(|e| refuse(format_args!("{e}")));
    let geometry = Geometry::for_pa_range(cpu::regs::read!("id_aa64mmfr0_el1"));
    let machine = Machine {
        tree,
        host,
        console: console.node,
        options,
        boot,
        geometry,
    };
    #[cfg(debug_assertions)]
    xenolith_hal::sync::set_cpu_hook(|| cpu::percpu::PerCpu::try_current().map(|cpu| cpu.id));
    sysreg::init();
    interrupts::start(&machine).unwrap_or_else(|e| refuse(format_args!("{e}")));

    let vtcr = geometry.vtcr() | (cpu::regs::read!("id_aa64mmfr0_el1") & 0xf).min(5) << 16;
    let boot_cpu = smp::join(hv, CpuId(0), vtcr);
    interrupts::start_console(&machine);
    let mpidrs: alloc::vec::Vec<u64> = machine.host.cpus.iter().map(|c| c.mpidr).collect();
    let limit = machine
        .options
        .max_cpus
        .map_or(MAX_CPUS, |n| n.max(1) as usize);
    smp::start_others(hv, &mpidrs, limit, vtcr);
    log::info!(
        "{} CPUs, {} MiB of RAM, {}-bit guest addresses",
        hv.sched.online_cpus().len(),
        hv.memory.table().frames() >> 8,
        geometry.bits
    );
    domains::build_all(hv, &machine, &mut ram).unwrap_or_else(|e| refuse(format_args!("{e}")));
    let stack = boot_memory::stack::<El2>(&hv.memory, 0)
        .unwrap_or_else(|| refuse(format_args!("no memory for a stack")));
    cpu::run::run_on(stack, boot_cpu)
}

/// Options that take effect at once.
fn apply(hv: &Hypervisor<Aarch64>, options: &Options, line: &str) {
    hv.command_line.call_once(|| line.into());
    hv.console.levels.set_own(level(options.log_level));
    hv.console.levels.set_guests(level(options.guest_log_level));
    // What nobody wants to see is not even formatted.
    log::set_max_level(level(options.log_level).max(level(options.guest_log_level)));
    hv.console.set_switch(options.console_switch.code);
}

fn level(level: LogLevel) -> log::LevelFilter {
    match level {
        LogLevel::None => log::LevelFilter::Off,
        LogLevel::Error => log::LevelFilter::Error,
        LogLevel::Warning => log::LevelFilter::Warn,
        LogLevel::Info => log::LevelFilter::Info,
        LogLevel::Debug => log::LevelFilter::Trace,
    }
}

static HV: spin::Once<&'static Hypervisor<Aarch64>> = spin::Once::new();
