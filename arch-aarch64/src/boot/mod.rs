//! Start-up of the machine: from the first Rust instruction to the first guest.

mod early;
mod head;

use xenolith_hal::HostPhys;

use crate::{console, cpu, mm::hyp};

/// The first Rust code, on the boot CPU: MMU on, on the boot stack, with the image mapped and nothing else.
pub extern "C" fn primary(device_tree: HostPhys, image: HostPhys) -> ! {
    cpu::regs::write!("tpidr_el2", 0);
    cpu::vectors::install();
    hyp::init(image);
    console::init_log();
    let Some(tree) = early::map_tree(device_tree) else { cpu::fault::stop() };
    early::start_console(&tree);
    log::info!("Xenolith {}, image at {:#x}", env!("CARGO_PKG_VERSION"), image.0);
    for region in tree.memory().regions() {
        log::info!("RAM {:#x} + {:#x}", region.starting_address as u64, region.size.unwrap_or(0));
    }
    cpu::fault::stop()
}

/// Every other CPU comes here, on its own stack.
pub extern "C" fn secondary(_cpu: u64) -> ! {
    cpu::fault::stop()
}
