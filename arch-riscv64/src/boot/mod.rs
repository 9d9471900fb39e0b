//! Start-up of the machine: from the first Rust instruction to all CPUs.

mod early;
mod head;
mod smp;

use xenolith_arch_common::{boot_memory, console::hand_over, set_source};
use xenolith_core::{
    Hypervisor,
    boot::{PhysRange, fdt::Tree, memory::BootMemory},
    memory::Place,
};
use xenolith_hal::{CpuId, Hal, HostPhys};

use crate::{
    Riscv64, console, cpu,
    mm::hyp::{self, Sv39},
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

fn start(hart: u64, tree: &Tree<'static>, blob: Option<PhysRange>) -> ! {
    early::start_console(tree);
    let (hz, harts) = early::cpus(tree);
    let Some(hz) = hz.filter(|hz| *hz != 0) else {
        refuse(format_args!(
            "device tree: /cpus has no timebase-frequency: add the rate of the time counter"
        ))
    };
    timer::init(u64::from(hz));
    log::info!(
        "Xenolith {} on RISC-V, timer {} kHz, {}",
        env!("CARGO_PKG_VERSION"),
        hz / 1000,
        sbi::Firmware
    );
    let image = boot_memory::image::<Sv39>();
    let mut ram = BootMemory::from_tree(tree).unwrap_or_else(|e| refuse(format_args!("{e}")));
    ram.occupy(image);
    ram.occupy(blob.unwrap_or_default());
    boot_memory::report(&ram);
    let own =
        boot_memory::map_ram::<Sv39>(&ram, image).unwrap_or_else(|e| refuse(format_args!("{e}")));
    ram.occupy(own.range);
    let allocator = boot_memory::start_allocator::<Sv39>(&ram, &own)
        .unwrap_or_else(|e| refuse(format_args!("{e}")));
    let hv = boot_memory::leak(Hypervisor::new(Riscv64, allocator));
    HV.call_once(|| hv);
    hand_over(|record| {
        if let Some(hv) = HV.get() {
            hv.console.print_record(&hv.hal, record);
        }
    });
    set_source(|order| HV.get()?.memory.allocate(order, Place::ANY));

    smp::join(hv, CpuId(0), hart);
    smp::start_others(hv, &harts, hart);
    for bank in ram.free().iter() {
        hv.memory
            .release_at_boot(bank.base().frame(), bank.size() >> 12);
    }
    log::info!(
        "{} CPUs, {} MiB of RAM, {} MiB free",
        hv.sched.online_cpus().len(),
        hv.memory.table().frames() >> 8,
        hv.memory.free_frames() >> 8
    );
    log::info!("no guest runs on RISC-V yet: powering off");
    hv.hal.power_off()
}

static HV: spin::Once<&'static Hypervisor<Riscv64>> = spin::Once::new();
