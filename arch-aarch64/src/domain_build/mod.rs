//! From the host's device tree to those of the domains: what the machine has, what dom0 gets of it, and the trees that
//! tell dom0 and other domains about their machines.
//!
//! Pure code: it reads the host's tree and yields blobs and lists. Nothing here touches the machine.

mod assign;
mod dom0;
mod domu;
mod host;

pub use assign::{Devices, Spi, Trigger, devices};
pub use dom0::{Dom0Request, dom0_tree, dom0_tree_room};
pub use domu::{
    DomuRequest, EVENT_PPI, GRANT_REGION, GUEST_BANKS, GuestGic, PL011, PL011_SPI, TIMER_PPIS,
    domu_tree, domu_tree_room,
};
pub use host::{Conduit, Gic, GicVersion, Host, HostCpu, HostError, TimerPpis, VirtualGic};
pub use xenolith_arch_common::dom0::TreeTooLarge;

/// The interrupt number of the first private peripheral interrupt.
pub const FIRST_PPI: u32 = 16;
/// The interrupt number of the first shared peripheral interrupt.
pub const FIRST_SPI: u32 = 32;

/// The affinity (MPIDR without its flag bits) of a domain's vCPU: 16 to a cluster, as many as one SGI can address.
#[must_use]
pub const fn vcpu_affinity(vcpu: u32) -> u64 {
    (vcpu & 0xf) as u64 | ((vcpu as u64 >> 4 & 0xff) << 8) | ((vcpu as u64 >> 12 & 0xff) << 16)
}

/// Fuzzing: any bytes as the host's device tree, through everything that is made from it.
pub fn fuzz_device_tree(bytes: &[u8]) {
    use xenolith_core::boot::{fdt::Tree, memory::BootMemory, modules::BootInfo};
    let Ok(tree) = Tree::parse(bytes) else {
        return;
    };
    let _ = BootMemory::from_tree(&tree).map(|memory| memory.free());
    let _ = BootInfo::from_tree(&tree, &|_| None);
    if let Ok(host) = Host::from_tree(&tree) {
        let console = tree
            .node("/chosen")
            .and_then(|c| tree.resolve(c.text("stdout-path")?))
            .map(|n| n.id());
        dom0::fuzz_dom0(&tree, &host, console);
    }
}

#[cfg(test)]
mod tests;
