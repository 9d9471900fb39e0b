//! What dom0 gets of the machine: which nodes of the host's tree it sees, and the memory windows and interrupts that
//! come with them.
//!
//! The rule is Xen's: a node that dom0 sees and that is enabled brings every range of its `reg` (translated to what the
//! CPU sees, rounded to pages) and every shared interrupt of the GIC that it names; a PCI host bridge also brings its
//! windows and the interrupts of its `interrupt-map`. RAM, the interrupt controller and the hypervisor's UART are never
//! among them.

use alloc::{collections::BTreeMap, vec::Vec};

use super::{FIRST_SPI, Host};
use xenolith_core::boot::{
    PhysRange, RangeSet,
    fdt::{Node, NodeId, Tree},
};

/// How an interrupt is signalled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// By a change of level.
    Edge,
    /// By a level.
    Level,
}

/// A shared peripheral interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spi {
    /// Its number, from 32 up.
    pub number: u32,
    /// How it is signalled.
    pub trigger: Trigger,
}

/// What comes with the devices that dom0 sees.
#[derive(Clone, Debug, Default)]
pub struct Devices {
    /// Registers, whole pages.
    pub mmio: RangeSet,
    /// Memory windows of PCI host bridges, whole pages; these may be hundreds of GiB.
    pub pci_windows: RangeSet,
    /// `/reserved-memory` regions: RAM that dom0's drivers expect at its place.
    pub reserved: RangeSet,
    /// Interrupts by number, ascending, each once.
    pub spis: Vec<Spi>,
}

/// What is done with a node of the host's tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// dom0 sees it.
    Keep,
    /// dom0 sees neither it nor what is below it.
    Hide,
    /// It is the interrupt controller: rewritten, children hidden.
    Gic,
}

const HIDDEN: &[&str] = &[
    "arm,psci",
    "arm,psci-0.2",
    "arm,psci-1.0",
    "arm,armv8-timer",
    "arm,armv7-timer",
    "arm,armv7-timer-mem",
    "arm,cortex-a53-edac",
    "linaro,optee-tz",
    "xen,xen",
    "xen,domain",
    "multiboot,module",
    "xen,multiboot-module",
    "xen,evtchn-v1",
    "xen,cpupool",
    "xen,domain-shared-memory-v1",
];
const IOMMUS: &[&str] = &[
    "arm,smmu-v1",
    "arm,smmu-v2",
    "arm,smmu-v3",
    "arm,mmu-400",
    "arm,mmu-401",
    "arm,mmu-500",
    "cavium,smmu-v2",
    "marvell,ap806-smmu-500",
    "nvidia,smmu-500",
    "qcom,smmu-v2",
];
/// Children of the root that are written anew.
const REWRITTEN: &[&str] = &[
    "cpus",
    "memory",
    "chosen",
    "hypervisor",
    "psci",
    "timer",
    "__symbols__",
    "__local_fixups__",
    "__fixups__",
];

fn is_pmu(node: &Node<'_, '_>) -> bool {
    node.texts("compatible")
        .any(|c| c.starts_with("arm,armv8-pmu") || (c.starts_with("arm,") && c.ends_with("-pmu")))
}

pub(super) fn fate(node: &Node<'_, '_>, host: &Host<'_>, console: Option<NodeId>) -> Fate {
    if node.id() == host.gic.node {
        return Fate::Gic;
    }
    let at_root = node.depth() == 1;
    let hidden = (at_root && REWRITTEN.contains(&node.base_name()) && !has_device_reg(node))
        || node.text("device_type") == Some("memory")
        || Some(node.id()) == console
        || node.has("xen,passthrough")
        || node.is_compatible(HIDDEN)
        || node.is_compatible(IOMMUS)
        || is_pmu(node);
    if hidden { Fate::Hide } else { Fate::Keep }
}

/// A device that only shares the name of a node that is written anew (`timer@ff100000`) stays.
fn has_device_reg(node: &Node<'_, '_>) -> bool {
    node.base_name() == "timer" && node.has("reg")
}

/// The nodes that dom0 sees, parents before children, with what is done with each.
pub(super) fn visible<'t, 'a>(
    tree: &'t Tree<'a>,
    host: &Host<'_>,
    console: Option<NodeId>,
) -> impl Iterator<Item = (Node<'t, 'a>, Fate)> {
    let mut hidden_until = tree.root().id();
    tree.nodes().filter_map(move |node| {
        if node.id() < hidden_until {
            return None;
        }
        let fate = fate(&node, host, console);
        if fate != Fate::Keep {
            hidden_until = node.end_id();
        }
        (fate != Fate::Hide).then_some((node, fate))
    })
}

impl Devices {
    /// What dom0 gets, with the console's UART kept by the hypervisor. `ram` is the machine's memory.
    #[must_use]
    pub fn of(tree: &Tree<'_>, host: &Host<'_>, console: Option<NodeId>, ram: &RangeSet) -> Self {
        let mut devices = Self::default();
        let mut spis = BTreeMap::new();
        let mut disabled_until = tree.root().id();
        for (node, fate) in visible(tree, host, console) {
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
            if fate == Fate::Gic {
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
                if interrupt.controller == host.gic.node
                    && let Some(spi) = spi(interrupt.cells())
                {
                    spis.entry(spi.number).or_insert(spi);
                }
            }
        }
        devices.spis = spis.into_values().collect();
        devices.leave_out(tree, host, console, ram);
        devices
    }

    /// Takes out what is never dom0's: RAM, the interrupt controller's windows, the console's registers.
    fn leave_out(
        &mut self,
        tree: &Tree<'_>,
        host: &Host<'_>,
        console: Option<NodeId>,
        ram: &RangeSet,
    ) {
        let mut kept: Vec<PhysRange> = ram.iter().collect();
        let controller = tree.by_id(host.gic.node);
        let below = controller.iter().flat_map(Node::descendants);
        let console = console.and_then(|id| tree.by_id(id));
        for node in controller.into_iter().chain(below).chain(console) {
            kept.extend(node.physical_ranges());
        }
        for range in kept {
            let range = range.page_outer().unwrap_or(range);
            self.mmio.remove(range);
            self.pci_windows.remove(range);
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

/// The shared interrupt that a specifier of the GIC names.
fn spi(cells: &[u32]) -> Option<Spi> {
    let [0, number, flags, ..] = cells else {
        return None;
    };
    let number = number.checked_add(FIRST_SPI).filter(|n| *n < 1020)?;
    let trigger = if flags & 3 != 0 {
        Trigger::Edge
    } else {
        Trigger::Level
    };
    Some(Spi { number, trigger })
}
