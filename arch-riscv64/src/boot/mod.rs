//! Start-up of the machine: from the first Rust instruction to the first guest.

mod build;
mod dom0;
mod domains;
mod early;
mod head;
mod interrupts;
mod smp;

use xenolith_arch_common::{Paging as _, boot_memory, console::hand_over, set_source};
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
use xenolith_hal::{CpuId, HostPhys};

use crate::{
    Riscv64, console, cpu,
    domain_build::{Device, Gives, devices},
    guest::fp,
    mm::{
        fences,
        gstage::Mode,
        hyp::{self, Own},
    },
    sbi, timer,
};

/// The first Rust code, on the boot hart: translation on, on the boot stack, with the image mapped and nothing else.
extern "C" fn primary(hart: u64, device_tree: HostPhys, image: HostPhys) -> ! {
    cpu::vectors::install();
    hyp::init(image);
    console::init_log();
    if !cpu::has_hypervisor_extension() {
        refuse(format_args!(
            "this CPU has no H extension (hypervisor mode), which Xenolith needs: use one that has, in QEMU -cpu rv64,h=true"
        ));
    }
    let blob = early::map_tree(device_tree);
    let tree = blob.and_then(Tree::parse);
    match &tree {
        Ok(tree) => start(
            hart,
            tree,
            PhysRange::new(device_tree.0, tree.size() as u64),
        ),
        Err(error) => refuse(format_args!("device tree: {error}")),
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
    /// The hypervisor's UART.
    console: Option<NodeId>,
    options: Options,
    /// What of it a domain can have.
    devices: alloc::vec::Vec<Device>,
    harts: early::Harts<'a>,
    boot: BootInfo<'a>,
    mode: Mode,
}

fn start(hart: u64, tree: &Tree<'static>, blob: Option<PhysRange>) -> ! {
    let console = early::start_console(tree);
    let harts = early::harts(tree);
    if harts.hz == 0 {
        refuse(format_args!(
            "device tree: /cpus has no timebase-frequency: add the rate of the time counter"
        ))
    }
    timer::init(harts.hz, harts.timers_alike);
    fp::init();
    log::info!(
        "Xenolith {} on RISC-V, timer {} kHz, {}",
        env!("CARGO_PKG_VERSION"),
        harts.hz / 1000,
        sbi::Firmware
    );
    if !sbi::has_fences() {
        refuse(format_args!(
            "this firmware makes no fences on other harts (the SBI's RFENCE extension), which Xenolith needs"
        ))
    }
    let image = boot_memory::image::<Own>();
    let mut ram = BootMemory::from_tree(tree).unwrap_or_else(|e| refuse(format_args!("{e}")));
    let top = ram.ram.iter().map(|bank| bank.end()).max().unwrap_or(0);
    if top > Own::direct_end() && hyp::widen() {
        log::info!("own page tables: Sv48");
    }
    let beyond = boot_memory::leave_out_unreachable::<Own>(&mut ram);
    if !beyond.is_empty() {
        log::warn!("RAM {beyond} is left alone: the tables of this CPU do not reach it");
    }
    let blob = blob.unwrap_or_default();
    ram.occupy(image);
    ram.hold(blob);
    for place in modules::places(tree) {
        ram.hold(place);
    }
    boot_memory::report(&ram);
    let own = boot_memory::map_ram::<Own>(&mut ram, image)
        .unwrap_or_else(|e| refuse(format_args!("{e}")));
    ram.occupy(own.range);
    let allocator = boot_memory::start_allocator::<Own>(&ram, &own)
        .unwrap_or_else(|e| refuse(format_args!("{e}")));
    let hv = boot_memory::leak(Hypervisor::new(Riscv64, allocator));
    HV.call_once(|| hv);
    hand_over(|record| {
        if let Some(hv) = HV.get() {
            hv.console.print_record(&hv.hal, record);
        }
    });
    set_source(|order| HV.get()?.memory.allocate(order, Place::ANY));

    let boot = BootInfo::from_tree(tree, &boot_memory::first_word::<Own>)
        .unwrap_or_else(|e| refuse(format_args!("{e}")));
    let (options, warnings) = cmdline::parse(boot.command_line);
    apply(hv, &options, boot.command_line);
    for warning in warnings {
        log::warn!("{warning}");
    }
    let Some(mode) = fences::choose(options.sv48x4 || top > Mode::Sv39x4.end()) else {
        refuse(format_args!(
            "this CPU has neither Sv39x4 nor Sv48x4 for guests, which Xenolith needs"
        ))
    };
    if let Err(error) = ram.check_modules(&boot.modules(), image, blob) {
        refuse(format_args!("{error}"));
    }
    boot_memory::warn_of_unused(&boot, &ram, image, blob);
    let boot_cpu = smp::join(hv, CpuId(0), hart);
    interrupts::start(tree, hart, console).unwrap_or_else(|e| log::warn!("{e}"));
    smp::start_others(hv, &harts.numbers, hart, options.max_cpus);
    if !options.vmid {
        fences::without_vmids();
    }
    log::info!(
        "{} CPUs, {} MiB of RAM, {}-bit guest addresses, {} VMIDs",
        hv.sched.online_cpus().len(),
        hv.memory.table().frames() >> 8,
        mode.shape().bits,
        fences::vmids(),
    );
    let machine = Machine {
        tree,
        console,
        options,
        devices: devices(tree, console),
        harts,
        boot,
        mode,
    };
    domains::build_all(hv, &machine, &mut ram).unwrap_or_else(|e| refuse(format_args!("{e}")));
    let stack = boot_memory::stack::<Own>(&hv.memory, 0)
        .unwrap_or_else(|| refuse(format_args!("no memory for a stack")));
    cpu::run::run_on(stack, boot_cpu)
}

/// What guests can have of the CPUs beside plain instructions.
fn given() -> Gives {
    Gives {
        sstc: timer::is_guests_own(),
        fp: fp::is_given(),
    }
}

/// Options that take effect at once.
fn apply(hv: &Hypervisor<Riscv64>, options: &Options, line: &str) {
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

static HV: spin::Once<&'static Hypervisor<Riscv64>> = spin::Once::new();
