//! What dom0 gets of the machine: the memory windows and interrupts that come with the nodes it sees.
//!
//! The rule is Xen's: a node that dom0 sees and that is enabled brings every range of its `reg` (translated to what the
//! CPU sees, rounded to pages) and every interrupt of the controller that it names and dom0 can have; a PCI host bridge also
//! brings its windows and the interrupts of its `interrupt-map`. RAM, the interrupt controller and the hypervisor's UART are
//! never among them.

use alloc::{collections::BTreeMap, vec::Vec};

use super::{Fate, HostTree, visible};
use xenolith_core::boot::{
    PhysRange, RangeSet,
    fdt::{Node, Tree},
    memory::BootMemory,
};

/// What comes with the devices that dom0 sees.
#[derive(Clone, Debug)]
pub struct Devices<I> {
    /// Registers, whole pages.
    pub mmio: RangeSet,
    /// Memory windows of PCI host bridges, whole pages; these may be hundreds of GiB.
    pub pci_windows: RangeSet,
    /// `/reserved-memory` regions: RAM that dom0's drivers expect at its place.
    pub reserved: RangeSet,
    /// Pages of registers that dom0 does not get, as the hypervisor keeps something in them.
    pub withheld: RangeSet,
    /// Interrupts by number, ascending, each once.
    pub interrupts: Vec<I>,
}

impl<I> Devices<I> {
    /// What dom0 gets. `ram` is the machine's memory.
    #[must_use]
    pub fn of(tree: &Tree<'_>, host: &impl HostTree<Interrupt = I>, ram: &RangeSet) -> Self {
        let mut devices = Self {
            mmio: RangeSet::new(),
            pci_windows: RangeSet::new(),
            reserved: RangeSet::new(),
            withheld: RangeSet::new(),
            interrupts: Vec::new(),
        };
        let mut interrupts = BTreeMap::new();
        let mut disabled_until = tree.root().id();
        for (node, fate) in visible(tree, host) {
            // What is below a disabled node is disabled with it.
            if node.id() < disabled_until {
                continue;
            }
            if !node.is_enabled() {
                disabled_until = node.end_id();
                continue;
            }
            let in_reserved = node
                .parent()
                .is_some_and(|p| p.depth() == 1 && p.name() == "reserved-memory");
            if fate == Fate::Replace {
                continue;
            }
            if in_reserved {
                insert_pages(&mut devices.reserved, node.physical_ranges());
                continue;
            }
            insert_pages(&mut devices.mmio, node.physical_ranges());
            if node.text("device_type") == Some("pci") {
                insert_pages(&mut devices.pci_windows, pci_windows(node));
            }
            for interrupt in node.interrupts().into_iter().chain(node.interrupt_map()) {
                if interrupt.controller == host.controller()
                    && let Some((number, it)) = host.interrupt(interrupt.cells())
                {
                    interrupts.entry(number).or_insert(it);
                }
            }
        }
        devices.interrupts = interrupts.into_values().collect();
        devices.leave_out(tree, host, ram);
        devices
    }

    /// Whatever a tree says is reserved: what was loaded at boot is the hypervisor's, or a module, and what it says twice in
    /// different ways is free memory.
    pub fn leave_to_hypervisor(&mut self, memory: &BootMemory) {
        for range in memory.taken().chain(memory.free().iter()) {
            self.reserved.remove(range.page_outer().unwrap_or(range));
        }
    }

    /// Takes out what is never dom0's: RAM, and the registers that the hypervisor keeps.
    fn leave_out(&mut self, tree: &Tree<'_>, host: &impl HostTree, ram: &RangeSet) {
        let kept = tree.nodes().filter(|node| host.keeps(node));
        let kept: Vec<PhysRange> = kept.flat_map(|node| node.physical_ranges()).collect();
        for range in kept {
            let range = range.page_outer().unwrap_or(range);
            for seen in self.mmio.iter() {
                self.withheld.insert(seen.intersection(&range));
            }
            self.mmio.remove(range);
            self.pci_windows.remove(range);
        }
        for bank in ram.iter() {
            let bank = bank.page_outer().unwrap_or(bank);
            self.mmio.remove(bank);
            self.pci_windows.remove(bank);
        }
        // Outside RAM there is nothing behind a reserved region that could be mapped as memory.
        let reserved: Vec<PhysRange> = self.reserved.iter().collect();
        self.reserved = reserved
            .iter()
            .flat_map(|r| ram.iter().map(|bank| bank.intersection(r)))
            .collect();
    }
}

fn insert_pages(set: &mut RangeSet, ranges: impl IntoIterator<Item = PhysRange>) {
    for range in ranges {
        if let Some(pages) = range.page_outer() {
            set.insert(pages);
        }
    }
}

/// The memory and I/O windows of a PCI host bridge, as the CPU sees them (PCI bus binding to IEEE 1275, `ranges`).
fn pci_windows(bridge: Node<'_, '_>) -> Vec<PhysRange> {
    let parent_cells = bridge.parent().map_or(2, |p| p.address_cells());
    let size_cells = bridge.size_cells();
    let mut cells = bridge.cells("ranges");
    let mut out = Vec::new();
    loop {
        // phys.hi (which space), phys.mid and phys.lo (the address there) say nothing about the CPU's side.
        if cells.nth(2).is_none() {
            return out;
        }
        let (Some(address), Some(size)) = (
            number(&mut cells, parent_cells),
            number(&mut cells, size_cells),
        ) else {
            return out;
        };
        let range = bridge
            .to_root(address, size)
            .and_then(|start| PhysRange::new(start, size));
        out.extend(range.filter(|r| !r.is_empty()));
    }
}

fn number(cells: &mut impl Iterator<Item = u32>, count: usize) -> Option<u64> {
    if count > 2 {
        return None;
    }
    (0..count).try_fold(0u64, |value, _| {
        Some(value << 32 | u64::from(cells.next()?))
    })
}
